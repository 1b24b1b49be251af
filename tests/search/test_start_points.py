"""`--start best.yaml`, recipes of the user's own, and `--like SEARCH`, what an earlier search has shown."""

import dataclasses
from pathlib import Path

import pytest

from search.context import SearchContext
from search.option import SettingsError
from search.phases.published import Published
from search.phases.race import Race
from search.recipes.earlier import like, teach, write_lessons
from search.recipes.start_points import check_start_points, kept_start, notes_on
from search.request import make_request
from search.scheduling.journal import Journal
from search.scheduling.sampler import Sampler
from search.settings import Settings
from search.state import SearchState
from search.workspace.folder import SPACE_HEAD
from spaces.domain import Space, Stage, one_of
from tests.search.test_tracking import PLAIN
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
    counts = {**DATA, "fingerprint": "f", "images": {**DATA["images"], "test": [n + 1 for n in DATA["images"]["test"]]}}
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


def earlier_search(tmp_path: Path) -> tuple[SearchContext, list[Recipe]]:
    """A search that has finished two recipes in its design, and another one in its race."""
    context = made(tmp_path, name="before")
    context.settings.folder.mkdir(parents=True)
    context.settings.save()
    recipes = [
        recipe_of(context, SPACE), recipe_of(context, SPACE, "first/input_mixup"),
        recipe_of(context, SPACE, "first/cost_sensitive"),
    ]  # fmt: skip
    journal = Journal(context.settings.folder / "journal.jsonl")
    fingerprint = context.splits.fingerprint(0)
    shown = [(0, "design", 0.5), (1, "design", 0.6), (1, "adaptive", 0.8), (2, "race", 0.9)]
    for number, (place, arm, accuracy) in enumerate(shown):
        recipe = recipes[place]
        record = dataclasses.replace(
            PLAIN, search="before", trial=f"{arm}-{number}", arm=arm, recipe=recipe.plan.id, plan=recipe.plan.to_dict(),
            metrics={"final/accuracy": accuracy}, fingerprint=fingerprint,
        )  # fmt: skip
        journal.write("record", record=record.to_dict())
    return context, recipes


def test_a_search_that_is_like_another_one_begins_with_what_it_has_shown(tmp_path):
    before, recipes = earlier_search(tmp_path)
    fields = like(before.settings)
    assert fields["data"] == "digits-lt" and fields["start_points"] is False and "name" not in fields
    context = made(tmp_path, name="after", like="before")
    context.settings.folder.mkdir()
    write_lessons(context, context.settings.folder)
    sampler = Sampler(SPACE, context.standard, 1.0, None, "after", 0)
    assert "begins with 2 of the 2 recipes" in teach(context, sampler)
    sampler.learn(recipes[0], 0.55)  # what this search measures goes before what that one has shown
    lessons = sampler.take_in()
    found = {trial.user_attrs["recipe"]: (trial.value, trial.user_attrs["arm"]) for trial in sampler.study.trials}
    # the mean over the seeds of design and adaptive arm; nothing from the race, whose seeds this search uses again
    assert found == {
        recipes[0].plan.id: (0.55, "design"), recipes[1].plan.id: (pytest.approx(0.7), "earlier"),
    }  # fmt: skip
    assert len(lessons) == 2 and sampler.take_in() == []


@pytest.mark.parametrize(
    ("given", "after"), [({}, 100), ({"patience": 15}, 15), ({"patience": 0}, 0)]
)  # fmt: skip
def test_the_patience_is_that_of_the_earlier_search_only_where_it_was_given(tmp_path, given, after):
    where = {"space": SPACE, "data": "digits-lt", "output": str(tmp_path)}
    before = make_request(where | {"name": "before", "trials": 40} | given).settings
    before.folder.mkdir()
    (before.folder / "space.py").write_text(f"{SPACE_HEAD}SPACE = {SPACE!r}\n")
    # trials that are added leave the patience as it is
    dataclasses.replace(before, trials=90).save()
    assert make_request(where | {"name": "after", "like": "before", "trials": 300}).settings.patience == after


def test_a_search_of_other_data_is_not_begun_with(tmp_path):
    earlier_search(tmp_path)
    context = made(tmp_path, name="after", like="before", imbalance=10.0)
    with pytest.raises(SettingsError, match=r"--like before: its data .* are not those of this search"):
        write_lessons(context, tmp_path)
