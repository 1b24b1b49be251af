"""`--start best.yaml`: recipes of the user's own, trained, learnt from and raced."""

from pathlib import Path

import pytest

from search.context import SearchContext
from search.option import SettingsError
from search.phases.published import Published
from search.phases.race import Race
from search.settings import Settings
from search.start_points import check_start_points, kept_start, notes_on
from search.state import SearchState
from spaces.domain import Space, Stage, one_of
from trainables.final.data_identity import identity
from trainables.final.recipe import to_yaml
from trainables.plan import Recipe, build, defaults

SPACE = Space(
    stages=[
        Stage("first", epochs=4, choose=[one_of(None, "cost_sensitive"), one_of(None, "input_mixup")]),
        Stage("last", epochs=2, carry="all", keep=True),
    ],
    screen=["first/cost_sensitive", "first/input_mixup"],
)
OTHER = Space(stages=[Stage("only", epochs=6, choose=["balanced_softmax"])], screen=[])
DATA = identity("digits-lt", None, 100.0)


def exported(folder: Path, recipe: Recipe, name: str = "best.yaml", **changes) -> str:
    """An exported recipe with what a search needs of it."""
    document = {
        "format": 1, "recipe": recipe.plan.id, "title": recipe.title, "model": "resnet8",
        "data": {"name": "digits-lt", "imbalance": 100.0, **DATA}, "plan": recipe.plan.to_dict(),
        "measured": {"values": [0.8], "seeds": [0], "epochs_scale": 1.0}, "conflicts": [],
        "provenance": {"search": "before"},
    }  # fmt: skip
    file = folder / name
    file.write_text(to_yaml(document | changes))
    return str(file)


def recipe_of(context: SearchContext, space: Space, *labels: str) -> Recipe:
    return build(space, defaults(labels), context.standard, context.settings.epochs_scale)


def made(tmp_path: Path, *start: str, **more) -> SearchContext:
    settings = {"name": "demo", "space": "s.py", "data": "digits-lt", "output": str(tmp_path), **more}
    return SearchContext.make(SPACE, Settings(start=start, start_points=False, **settings))


def test_own_start_points_are_trained_first_and_always_race(tmp_path):
    plain = made(tmp_path)
    inside, outside = recipe_of(plain, SPACE, "first/input_mixup"), recipe_of(plain, OTHER)
    files = [exported(tmp_path, inside), exported(tmp_path, outside, "paper.yaml")]
    context = made(tmp_path, *files)
    check_start_points(context.starts, context.settings)
    state = SearchState(context.factory, context.settings, margin=0.02)
    requests = list(Published().plan(state))
    assert [request.recipe.plan.id for request in requests] == [inside.plan.id, outside.plan.id]
    assert requests[1].title == "start point paper: only/balanced_softmax"
    assert all(request.seed == 1000 and not request.may_stop for request in requests)
    # the sampler can learn what the space can express: it has the choices by name
    assert requests[0].recipe.params == inside.params and not requests[1].recipe.params
    assert Race().max_trials(context.settings, context.factory) == (8 + 1 + 2) * 3
    assert Published().max_trials(context.settings, context.factory) == 2


def test_a_start_point_has_the_length_of_the_search(tmp_path):
    file = exported(tmp_path, recipe_of(made(tmp_path), OTHER))
    (start,) = made(tmp_path, file, epochs_scale=0.5).starts
    assert [stage.epochs for stage in start.recipe.plan.stages] == [3]


def test_a_start_point_of_other_data_or_another_network_is_refused(tmp_path):
    recipe = recipe_of(made(tmp_path), SPACE, "first/input_mixup")
    with pytest.raises(SettingsError, match=r"--start .*: the recipe was found with the network linear"):
        made(tmp_path, exported(tmp_path, recipe, model="linear"))
    with pytest.raises(SettingsError, match=r"--start .*nowhere.yaml: .*no such file"):
        made(tmp_path, str(tmp_path / "nowhere.yaml"))
    counts = {**DATA, "fingerprint": "f", "counts": [n + 1 for n in DATA["counts"]]}
    other = exported(tmp_path, recipe, data={"name": "digits-lt", "imbalance": 100.0, **counts})
    context = made(tmp_path, other)
    with pytest.raises(SettingsError, match=r"found on other data .* → .*leave this start point out"):
        check_start_points(context.starts, context.settings)
    context = made(tmp_path, exported(tmp_path, recipe), imbalance=10.0)
    with pytest.raises(SettingsError, match="found on other data"):
        check_start_points(context.starts, context.settings)


def test_a_resumed_search_reads_its_own_copy(tmp_path):
    file = Path(exported(tmp_path, recipe_of(made(tmp_path), SPACE, "first/input_mixup")))
    folder = tmp_path / "demo"
    folder.mkdir()
    file.rename(folder / kept_start(0))
    assert [start.file for start in made(tmp_path, str(file)).starts] == [str(file)]


def test_seeds_that_chose_a_start_point_are_told(tmp_path):
    recipe = recipe_of(made(tmp_path), SPACE, "first/input_mixup")
    measured = {"values": [0.8], "seeds": [3001], "epochs_scale": 1.0}
    starts = made(tmp_path, exported(tmp_path, recipe, measured=measured)).starts
    (note,) = notes_on(starts, first_seed=0)
    assert "--seed N" in note and notes_on(starts, first_seed=10_000) == []
