"""A search that is resumed with a changed space: what counts, what is set aside, what is said, and what follows."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

import search
from analysis.records import reader
from analysis.report.findings import from_store
from search.cli import main
from search.commands import list as listing
from search.commands import sync
from search.context import SearchContext
from search.growth.change import find_change, notes
from search.growth.difference import differences, keep_defaults
from search.growth.inside import why_outside
from search.scheduling.early_end.rule import EarlyEnd
from search.scheduling.journal import Journal
from search.scheduling.sampler import Sampler
from search.settings import More, Settings, SettingsError
from search.verify import __main__ as verify
from search.workspace.folder import SPACE_HEAD
from search.workspace.identity import Identity
from spaces.domain import Space, SpaceError, Stage, forbid, integer, log_uniform, one_of, some_of, trick, uniform
from tests.search import in_process
from trainables.data import standard
from trainables.plan import Plan, build, check_space, defaults
from trainables.registry import PlanError

FIRST = in_process.SPACE


def first(*choose, **numbers) -> Space:
    """The space of `in_process` with another first stage and another screen."""
    screen = numbers.pop("screen")
    stage = Stage("first", epochs=1, **{"lr": FIRST.stages[0].lr} | numbers, choose=list(choose))
    return dataclasses.replace(FIRST, stages=[stage, FIRST.stages[1]], screen=screen)


CHANGED = first(
    one_of(None, "cost_sensitive", "effective_number"), one_of(None, "square_root"),
    lr=log_uniform(0.02, 0.3, "halves"), screen=["first/cost_sensitive", "first/square_root"],
)  # fmt: skip
"""A trick for another one, a further one, and a wider range whose grid and default move."""

REMOVED = "the space no longer has first/class_balanced"


def resume(place: Path, space: Space | None = None, **options):
    """Resumes the search in a folder."""
    if space is None:
        return in_process.run(place, None, **options)
    with in_process.without_ray():
        return search.run(space, name="s", output=str(place / "results"), resume=True, **options)


def events(place: Path) -> list[dict]:
    return Journal(place / "results" / "s" / "journal.jsonl").events()


def records(place: Path) -> dict[str, dict]:
    return {event["record"]["trial"]: event["record"] for event in events(place) if event["event"] == "record"}


def is_believed(place: Path) -> bool:
    with in_process.without_ray():
        return verify.main([str(place / "results" / "s")], prog="verify") == 0


def copied(of: Path, to: Path, lines: int | None = None) -> Path:
    """The search in another folder, as it was after some lines of its journal."""
    shutil.copytree(of / "results", to / "results")
    folder = to / "results" / "s"
    content = json.loads((folder / "search.json").read_text())
    changes = {"id": "another", "project": str(to), "output": "results", "tracking_uri": "none"}
    (folder / "search.json").write_text(json.dumps(content | changes))
    journal = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(journal[:lines]))
    return to


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A whole search, with MLflow."""
    place = tmp_path_factory.mktemp("begun")
    result = in_process.run(place, tracking_uri=f"sqlite:///{place}/mlflow.db")
    assert result.complete
    return place


@pytest.fixture(scope="module")
def grown(begun, tmp_path_factory) -> tuple[Path, Path, search.SearchResult]:
    """The folder of the search before and after its space was changed, and its result."""
    before = tmp_path_factory.mktemp("before") / "copy"
    shutil.copytree(begun / "results", before / "results")
    result = resume(begun, CHANGED)
    return before, begun, result


def test_what_lies_inside_counts_and_only_what_is_missing_runs(grown):
    before, place, result = grown
    assert result.complete
    old, new = records(before), records(place)
    change = next(event for event in events(place) if event["event"] == "space")
    aside = {name for name, record in old.items() if "first/class_balanced" in record["choices"].values() or
             "class_balanced" in json.dumps(record["plan"])}  # fmt: skip
    assert 0 < len(aside) < len(old) == change["trials"]
    assert change["set_aside"] == dict.fromkeys(sorted(aside), REMOVED)
    # no trial ran twice, and none of what was removed
    assert {name: new[name] for name in old} == old
    added = new.keys() - old.keys()
    assert not any("class_balanced" in json.dumps(new[name]["plan"]) for name in added)
    # the design: the two cells with the new label, on both blocks
    design = sorted((new[name]["seed"], new[name]["tricks"]) for name in added if new[name]["arm"] == "design")
    cells = [["first/cost_sensitive", "first/square_root"], ["first/square_root"]]
    assert design == [(seed, cell) for seed in (0, 1) for cell in cells]
    assert {pair for row in result.conflicts.itertuples() for pair in [(row.a, row.b)]} == {
        ("first/cost_sensitive", "first/square_root")
    }
    assert result.conflicts.iloc[0]["n_seeds"] == 2
    # the baseline keeps its learning rate although the grid has moved
    assert {new[name]["plan"]["stages"][0]["lr"] for name in added if new[name]["arm"] == "design"} == {
        old["design-0-000"]["plan"]["stages"][0]["lr"]
    }
    # tables and winner stand on what counts
    assert set(result.trials["trial"]) == set(new) - aside
    assert "class_balanced" not in json.dumps(result.best["plan"])


def test_stages_of_earlier_trials_are_found(grown, tmp_path):
    """The new cells have a last stage of their own after first stages that the design has trained."""
    copy = copied(grown[0], tmp_path)
    old = records(copy)
    assert resume(copy, dataclasses.replace(FIRST, screen=[*FIRST.screen, "classifier"])).complete
    added = [record for name, record in records(copy).items() if name not in old and record["arm"] == "design"]
    cells = [["classifier"], ["classifier", "first/class_balanced"], ["classifier", "first/cost_sensitive"]]
    assert sorted((one["seed"], one["tricks"]) for one in added) == [(seed, cell) for seed in (0, 1) for cell in cells]
    assert all(one["reused"] == ["first"] and one["epochs_trained"] == 1 for one in added)


def test_a_grown_search_is_believed_and_a_forged_change_is_not(grown, tmp_path, capsys):
    _, place, _ = grown
    assert is_believed(place)
    said = capsys.readouterr().out
    assert "its space was changed 1 time, " in said and "set aside" in said
    copy = copied(place, tmp_path)
    file = copy / "results" / "s" / "journal.jsonl"
    content = events(copy)
    file.unlink()
    journal = Journal(file)
    for event in content:
        if event["event"] == "space":
            event["set_aside"].pop(next(iter(event["set_aside"])))
        journal.write(
            event["event"], **{key: value for key, value in event.items() if key not in ("event", "line", "crc32")}
        )
    assert not is_believed(copy)
    assert "changes the space, and its set_aside does not follow" in capsys.readouterr().err


def test_the_change_is_shown_and_recorded(grown, capsys):
    _, place, result = grown
    uri = f"sqlite:///{place}/mlflow.db"
    folder = place / "results" / "s"
    change = next(event for event in events(place) if event["event"] == "space")
    count = len(change["set_aside"])
    assert change["differences"] == [
        "first/lr: 0.03 … 0.3 log halves of a decade → 0.02 … 0.3 log halves of a decade (wider)",
        "first/effective_number is added", "first/square_root is added", "first/class_balanced is removed",
        "screen= now has first/square_root", "screen= no longer has first/class_balanced",
        "first/lr is 0.3 in the baseline and the design",
    ]  # fmt: skip
    # screen, findings, report, MLflow: after looking
    assert result.health[0].startswith(f"The space was changed after {change['trials']} trials (first/lr: 0.03")
    assert "decided after results had been seen" in result.health[0]
    assert f"{count} trials outside the space are set aside" in result.health[0]
    assert json.loads((folder / "findings.json").read_text())["health"][0] == result.health[0]
    assert "decided after results had been seen" in (folder / "report.html").read_text()
    assert "s " in listing.table(uri) and ", space changed" in listing.table(uri)
    _, found = from_store(uri, "s")
    assert found.health[0] == result.health[0] and set(found.trials["trial"]) == set(result.trials["trial"])
    info = reader.find(uri, "s")
    assert info.tags["space_changes"] == result.health[0]
    # the runs of what was set aside are there and say so, also when they are written again
    assert tagged(uri) == change["set_aside"]
    sync.sync("s", str(place / "results"))
    assert tagged(uri) == change["set_aside"]
    # the former space
    known = Identity.read(folder)
    assert list(known.files) == ["space-2.py"] and (folder / "space.py").is_file()
    assert known.space == dataclasses.replace(CHANGED, defaults={"first/lr": 0.3})
    assert len(known.former) == 1 and list(known.former[0]["files"]) == ["space.py"]


def tagged(uri: str) -> dict[str, str]:
    """Trials whose run says that they are set aside, with the reason."""
    client = MlflowClient(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.search = 's' and tags.level = 'trial'", max_results=1000)
    return {run.data.tags["trial"]: run.data.tags["set_aside"] for run in runs if "set_aside" in run.data.tags}


def test_the_same_space_again_changes_nothing(grown, tmp_path):
    copy = copied(grown[1], tmp_path)
    lines = len(events(copy))
    assert resume(copy, CHANGED).complete
    assert len(events(copy)) == lines


def test_what_comes_back_counts_again(grown, tmp_path):
    before, place, _ = grown
    copy = copied(place, tmp_path)
    result = resume(copy, FIRST, trials=More(3))
    old = records(before)
    changes = [event for event in events(copy) if event["event"] == "space"]
    removed = {"the space no longer has first/effective_number", "the space no longer has first/square_root"}
    assert len(changes) == 2 and set(changes[1]["set_aside"].values()) <= removed
    assert set(old) <= set(result.trials["trial"]) and set(result.conflicts["b"]) == {"first/cost_sensitive"}
    assert len([name for name in records(copy) if name.startswith("adaptive-")]) == 11
    assert is_believed(copy)


@pytest.mark.parametrize(
    "event", ["task", pytest.param("lesson", marks=pytest.mark.slow), pytest.param("record", marks=pytest.mark.slow)]
)
def test_a_search_is_changed_in_its_midst(begun, grown, tmp_path, event):
    before, _, _ = grown
    kinds = [one["event"] for one in events(before)]
    # after the design, with a proposal that has no result, and among the proposals
    lines = {"lesson": kinds.index("lesson") + 1, "task": kinds.index("task") + 3, "record": kinds.index("task") + 6}
    copy = copied(before, tmp_path, lines[event])
    assert kinds[lines[event] - 1] == event
    result = resume(copy, CHANGED)
    assert result.complete and is_believed(copy)
    changed = next(number for number, one in enumerate(events(copy)) if one["event"] == "space")
    later = [one["task"] for one in events(copy)[changed:] if one["event"] == "task"]
    assert len(later) == 8 - kinds[: lines[event]].count("task")
    assert not any("class_balanced" in json.dumps(task["recipe"]["plan"]) for task in later)


def test_a_kill_between_its_two_writes_loses_nothing(begun, grown, tmp_path):
    _, place, _ = grown
    kinds = [one["event"] for one in events(place)]
    copy = copied(place, tmp_path, kinds.index("space"))  # the identity has the change, the journal has not
    assert resume(copy).complete
    assert [one["event"] for one in events(copy)] == kinds and is_believed(copy)


def test_the_first_space_is_kept_after_a_kill_between_the_two_writes(begun, grown, tmp_path):
    before, place, _ = grown
    kinds = [one["event"] for one in events(place)]
    copy = copied(place, tmp_path, kinds.index("space"))
    assert resume(copy, FIRST).complete
    assert events(copy) == events(before) and is_believed(copy)
    folder = copy / "results" / "s"
    known, first_known = (Identity.read(one / "results" / "s") for one in (copy, before))
    assert dataclasses.replace(known, versions=first_known.versions) == first_known, "what tricks were is still known"
    assert not (folder / "space-2.py").exists()


def test_what_an_early_end_has_saved_is_not_left_to_propose(grown, tmp_path):
    before = copied(grown[0], tmp_path)
    settings = Settings.stored(before / "results", "s")
    former = SearchContext.make(FIRST, settings)
    now = dataclasses.replace(former, space=keep_defaults(FIRST, CHANGED, former.standard))
    journal = events(before)
    kinds = [one["event"] for one in journal]
    at = [number for number, kind in enumerate(kinds) if kind == "task"][4] + 1
    end = EarlyEnd(asked=5, saved=3, stagnant=4, ahead=4, gain=0.001, margin=0.02)
    ended = [*journal[:at], {"event": "early_end", "end": end.to_dict()}]
    lefts = [find_change(former, now, known).proposals_left for known in (journal[:at], ended, journal)]
    assert lefts == [3, 0, 0]


@pytest.mark.parametrize(
    ("differences", "aside", "said"),
    [
        (["screen= now has first/focal"], [], "Which pairs are judged was decided after results had been seen"),
        (["first/focal.gamma: 1 → 2"], ["design-0-003"], "Which trials of the design are judged was decided after"),
        (["first/focal.gamma: 1 → 2"], ["adaptive-0003"], None),
    ],
)
def test_pairs_are_explored_where_their_trials_were_chosen_after_looking(grown, tmp_path, differences, aside, said):
    copy = copied(grown[1], tmp_path)
    file = copy / "results" / "s" / "journal.jsonl"
    file.unlink()
    why = "first/focal.gamma is now 2, and it has 1"
    Journal(file).write("space", differences=differences, set_aside=dict.fromkeys(aside, why), trials=13)
    told = notes(Settings.stored(copy / "results", "s"))
    assert told.startswith(f"The space was changed after 13 trials ({differences[0]}).")
    assert ("exploration" in told) == (said is not None) and (said or "") in told


def test_a_sampler_takes_over_what_was_proposed(grown):
    """Earlier proposals are in the study in the words of the changed space; the others leave a gap."""
    _, place, _ = grown
    settings = Settings.stored(place / "results", "s")
    context = SearchContext.make(Identity.read(settings.folder).space, settings)
    sampler = Sampler(context.space, context.standard, 1.0, None, "s", 0)
    journal = events(place)
    sampler.rebuild(journal)
    aside = next(event for event in journal if event["event"] == "space")["set_aside"]
    proposals = {event["task"]["number"]: event["task"] for event in journal if event["event"] == "task"}
    for trial in sampler.study.get_trials():
        if trial.number in proposals and proposals[trial.number]["id"] not in aside:
            assert trial.user_attrs["recipe"] == Plan.from_dict(proposals[trial.number]["recipe"]["plan"]).id
            assert "first/weight" in trial.params and trial.distributions["first/lr"].low == 0.02
        elif trial.number in proposals:
            assert trial.state.name == "FAIL" and not trial.params


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (first("cost_sensitive", one_of(None, "class_balanced"), screen=["first/class_balanced"]),
         "the baseline would be another recipe"),
        (dataclasses.replace(CHANGED, data="cifar10-lt"), "data= of the space cannot change"),
        (dataclasses.replace(CHANGED, model="resnet32"), "model= of the space cannot change"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_combined_is_refused_with_what_to_do(grown, tmp_path, space, said):
    copy = copied(grown[1], tmp_path)
    lines = len(events(copy))
    with pytest.raises(SettingsError, match=f"--resume s --space <python>: {said}.*start a new search.*--like s"):
        resume(copy, space)
    assert len(events(copy)) == lines


def test_declared_pairs_stay(tmp_path):
    pair = ["only/cost_sensitive×only/class_balanced"]
    wide = dataclasses.replace(
        in_process.TINY,
        stages=[Stage("only", epochs=1, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")])],
        screen=["only/cost_sensitive", "only/class_balanced"],
    )
    in_process.run(tmp_path, wide, name="t", seeds=3, trials=0, race=False, primary=pair)
    said = r"--primary: no label 'only/class_balanced'.*keep in the space what the search has declared"
    with in_process.without_ray(), pytest.raises(SettingsError, match=said):
        search.run(in_process.TINY, name="t", output=str(tmp_path / "results"), resume=True)
    # a further label is welcome, and the declared pair keeps its place
    more = dataclasses.replace(
        wide,
        stages=[Stage("only", epochs=1, choose=[
            one_of(None, "cost_sensitive", "effective_number"), one_of(None, "class_balanced")])],
        screen=[*wide.screen, "only/effective_number"],
    )  # fmt: skip
    with in_process.without_ray():
        result = search.run(more, name="t", output=str(tmp_path / "results"), resume=True)
    declared = result.conflicts[result.conflicts["primary"]]
    assert list(zip(declared["a"], declared["b"], strict=True)) == [("only/class_balanced", "only/cost_sensitive")]
    assert "The declared pairs are those of the start" in result.health[0]


def test_the_preview_shows_the_difference_and_writes_nothing(grown, tmp_path, capsys):
    copy = copied(grown[0], tmp_path)
    file = tmp_path / "changed.py"
    file.write_text(f"{SPACE_HEAD}SPACE = {CHANGED!r}\n")
    before = sorted(path.name for path in (copy / "results" / "s").iterdir())
    with in_process.without_ray():
        assert (
            main(["search", "--resume", "s", "--output", str(copy / "results"), "--space", str(file), "--dry-run"]) == 0
        )
    said = capsys.readouterr().out
    assert said.startswith("The space has changed:\n  first/lr: 0.03")
    assert REMOVED in said and "Trials of the changed design that have no result yet: 4." in said
    assert "--trials +N lets it propose" in said
    assert before == sorted(path.name for path in (copy / "results" / "s").iterdir())


def test_a_search_that_is_like_another_finds_every_stage(tmp_path, monkeypatch):
    """`--like` has the seeds of the earlier search, so all stages of the design lie in the store."""
    in_process.run(tmp_path, trials=0, race=False)
    with in_process.without_ray():
        monkeypatch.chdir(tmp_path)
        result = search.run(FIRST, name="after", like="s", output=str(tmp_path / "results"))
    design = result.trials[result.trials["arm"] == "design"]
    assert len(design) == 8 and (design["epochs_trained"] == 0).all()


# ------------------------------------------------------------------------------------------ spaces alone


DIGITS = standard("digits-lt")


def small(*choose, **more) -> Space:
    numbers = {name: more.pop(name) for name in ("lr", "members", "weight_decay") if name in more}
    return Space([Stage("a", epochs=1, choose=list(choose), **numbers)], **more)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (small(), small(), []),
        (small(lr=0.1), small(lr=uniform(0.05, 0.2)), ["a/lr: 0.1 → 0.05 … 0.2 (wider)"]),
        (small(lr=uniform(0.1, 0.4)), small(lr=uniform(0.1, 0.2)), ["a/lr: 0.1 … 0.4 → 0.1 … 0.2 (narrower)"]),
        (small(lr=uniform(0.1, 0.4)), small(lr=uniform(0.2, 0.5)), ["a/lr: 0.1 … 0.4 → 0.2 … 0.5"]),
        (small(lr=one_of(0.1, 0.2)), small(lr=one_of(0.1)), ["a/lr: 0.1 | 0.2 → 0.1 (narrower)"]),
        (small(lr=0.1), small(), ["a/lr: 0.1 → the usual value"]),
        (small(one_of(None, "focal")), small("focal"), ["the choices of stage a: none | focal → focal"]),
        (small("focal"), small(trick("focal", gamma=uniform(1, 2))), ["a/focal.gamma: the usual value → 1 … 2"]),
        (small(some_of("cutout")), small(some_of("cutout", "rand_augment")), ["a/rand_augment is added"]),
        (small(one_of(None, "focal"), one_of(None, "ldam")), small(one_of(None, "focal", "ldam")),
         ["the choices of stage a: none | focal; none | ldam → none | focal | ldam"]),
        (small(), Space([Stage("a", epochs=1), one_of(None, Stage("b", epochs=1))]), ["stage b is added"]),
        (Space([one_of(Stage("a", epochs=1), Stage("b", epochs=1))]), small(), ["stage b is removed"]),
        (small(), Space([one_of(Stage("a", epochs=1), Stage("b", epochs=1))]),
         ["stage b is added, instead of a"]),
        (Space([one_of(Stage("a", epochs=1), Stage("b", epochs=1))]),
         Space([one_of(Stage("b", epochs=1), Stage("a", epochs=1))]), ["the order of the stages: a | b → b | a"]),
        (small(one_of(None, "focal"), one_of(None, "cost_sensitive")),
         small(one_of(None, "focal"), one_of(None, "cost_sensitive"),
               forbid=[forbid("a/focal", "a/cost_sensitive", reason="both weigh")]),
         ["forbid= now has a/focal and a/cost_sensitive"]),
    ],
)  # fmt: skip
def test_differences_in_words(before, now, said):
    assert differences(before, now) == said


def test_numbers_of_the_baseline_stay_where_they_lie_inside():
    before = small("average", lr=log_uniform(0.01, 0.3, step="thirds"), members=integer(3, 4))
    now = small("average", lr=log_uniform(0.005, 0.3, step="thirds"), members=integer(2, 4))
    plan = build(before, defaults(), DIGITS).plan
    assert build(now, defaults(), DIGITS).plan != plan
    kept = keep_defaults(before, now, DIGITS)
    assert build(kept, defaults(), DIGITS).plan == plan and keep_defaults(kept, now, DIGITS) == kept
    assert dict(kept.defaults)["a/members"] == 3
    gone = keep_defaults(before, small("average", lr=log_uniform(0.2, 0.3), members=integer(4, 5)), DIGITS)
    assert gone.defaults == ()


def test_defaults_of_a_space_are_checked():
    space = small(lr=uniform(0.05, 0.2), defaults={"a/lr": 0.06})
    assert build(space, defaults(), DIGITS).plan.stages[0].lr == 0.06
    check_space(space, DIGITS)
    with pytest.raises(PlanError, match=r"defaults: the space leaves no number 'a/le' open: did you mean 'a/lr'"):
        check_space(small(lr=uniform(0.05, 0.2), defaults={"a/le": 0.06}), DIGITS)
    with pytest.raises(PlanError, match=r"defaults: a/lr must be in 0.05 … 0.2, got 0.3"):
        check_space(small(lr=uniform(0.05, 0.2), defaults={"a/lr": 0.3}), DIGITS)
    for wrong in (3, ["a"], {"a/lr": [1]}):
        with pytest.raises(SpaceError, match=r"Space\(defaults="):
            small(defaults=wrong)


def test_why_a_plan_lies_outside():
    plan = build(small("focal", lr=0.2), defaults(), DIGITS).plan.to_dict()
    assert why_outside(small(one_of(None, "ldam")), plan) == "the space no longer has a/focal"
    assert why_outside(Space([Stage("b", epochs=1)]), plan) == "the space no longer has the stage a"
    narrow = small(one_of(None, "focal"), lr=uniform(0.01, 0.1))
    assert why_outside(narrow, plan) == "a/lr is now 0.01 … 0.1, and it has 0.2"
    assert why_outside(small("focal", lr=0.1), plan) == "it is no recipe of the changed space"
