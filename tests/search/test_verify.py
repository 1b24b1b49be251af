"""`longtail-tune verify`: an honest search is believed, and one that was touched is refused with the reason."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.records.schema import Record
from search.context import SearchContext
from search.phases import PHASES
from search.request import make_request
from search.scheduling.journal import Journal
from search.settings import Settings
from search.verify import __main__ as verify
from search.verify import claims, comparison, replay
from search.verify.comparison import apart
from search.verify.reproduction import environment, locked_version
from search.workspace.folder import kept_space
from search.workspace.identity import Identity
from tests.search import in_process


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A whole search: design, adaptive arm with early stopping, race, confirmation."""
    place = tmp_path_factory.mktemp("verified")
    result = in_process.run(place)
    assert result.complete and "stopped" in set(result.trials["outcome"])
    return place


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """The same search in a folder of its own, which may be touched; its data stay where they were."""
    shutil.copytree(finished / "results" / "s", tmp_path / "results" / "s")
    settings = tmp_path / "results" / "s" / "search.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"id": "another", "project": str(tmp_path), "output": "results"}))
    return tmp_path / "results" / "s"


def verified(folder: Path, capsys, *more: str) -> tuple[int, str, list[str]]:
    """Exit code, what is said, and why it is refused."""
    with in_process.without_ray():
        code = verify.main([str(folder), *more], prog="verify")
    said = capsys.readouterr()
    return code, said.out, [line.removeprefix("verify: refused: ") for line in said.err.splitlines()]


def events_of(folder: Path) -> list[dict]:
    return Journal(folder / "journal.jsonl").events()


def rewrite(folder: Path, events: list[dict]) -> None:
    """A journal whose checksums are those of its lines: whoever forges one can compute them."""
    file = folder / "journal.jsonl"
    file.unlink()
    journal = Journal(file)
    for event in events:
        content = {name: value for name, value in event.items() if name not in ("event", "line", "crc32")}
        journal.write(event["event"], **content)


def records(events: list[dict], arm: str, outcome: str = "finished") -> list[dict]:
    return [
        event["record"] for event in events
        if event["event"] == "record" and (event["record"]["arm"], event["record"]["outcome"]) == (arm, outcome)
    ]  # fmt: skip


def test_an_honest_search_is_believed_in_one_line(finished, capsys):
    code, said, refused = verified(finished / "results" / "s", capsys)
    assert (code, refused) == (0, [])
    events = events_of(finished / "results" / "s")
    trials = [event["record"] for event in events if event["event"] == "record"]
    stopped = sum(record["outcome"] == "stopped" for record in trials)
    best = yaml.safe_load((finished / "results" / "s" / "best.yaml").read_text())
    mean = f"{100 * np.mean(best['measured']['values']):.1f}"
    assert len(said.splitlines()) == 1
    assert f"{len(trials)} trials of {len({record['recipe'] for record in trials})} recipes" in said
    assert "complete" in said and "the test split was read by 4 trials" in said
    assert f"recipe {best['recipe']} reaches {mean} (" in said
    assert f"8 proposals, {len(trials) - 8} planned trials and {stopped} early stops follow" in said


def raise_a_result(events):
    record = records(events, "design")[1]
    record["metrics"]["final/accuracy"] += 0.3


def repeat_a_trial(events):
    last = max(number for number, event in enumerate(events) if event["event"] == "record")
    events.append(json.loads(json.dumps(events[last])))


def read_test_while_choosing(events):
    records(events, "race")[0]["metrics"]["test/accuracy"] = 0.9


def leave_a_bad_seed_out(events):
    gone = records(events, "confirm")[-1]
    events[:] = [event for event in events if event.get("record") is not gone]


def take_another_seed(events):
    record = records(events, "confirm")[-1]
    record["seed"] = record["split_seed"] = 3_777


def take_a_seed_that_was_not_declared(events):
    record = records(events, "confirm")[-1]
    record["seed"] = record["split_seed"] = 12


def go_on_with_a_stopped_trial(events):
    records(events, "adaptive", "stopped")[0]["stop"]["value"] += 0.4


def forget_a_stop(events):
    record, other = records(events, "adaptive", "stopped")[0], records(events, "adaptive")[0]
    record |= {"outcome": "finished", "stop": {}, "reason": "", "metrics": other["metrics"], "recalls": []}
    record["curve"] = [*record["curve"], other["curve"][-1]]


def propose_something_else(events):
    tasks = [event for event in events if event["event"] == "task"]
    first, other = tasks[3]["task"], tasks[0]["task"]
    for name in ("recipe", "title", "tricks"):
        first[name] = other[name]


def train_another_plan(events):
    record = records(events, "race")[0]
    record["plan"]["stages"][0]["lr"] *= 2


def train_on_other_data(events):
    records(events, "race")[0]["fingerprint"] = "0123456789abcdef"


def forged(folder: Path, change) -> list[dict]:
    events = events_of(folder)
    change(events)
    return events


def replayed(place: Path, events: list[dict], **options) -> replay.Replayed:
    """What a replay shows of other events of a search."""
    settings = Settings.stored(place / "results", "s")
    with in_process.without_ray(), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "journal.jsonl").touch()
        rewrite(Path(folder), events)
        context = SearchContext.make(kept_space(settings)[0], settings)
        return replay.replay(context, Path(folder) / "journal.jsonl", **options)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (repeat_a_trial, r"\(confirm-.*\) is of a trial that would not have been planned"),
        (take_another_seed, "has another seed than the trial that was planned"),
        (go_on_with_a_stopped_trial, "was stopped, and by what was known then it would not have been stopped"),
        (forget_a_stop, "was not stopped, and by what was known then it would have been"),
        (propose_something_else, r"\(adaptive-0003\) would have been decided otherwise"),
    ],
)
def test_what_does_not_follow_is_found_by_deciding_again(finished, change, why):
    (problem,) = replayed(finished, forged(finished / "results" / "s", change)).problems
    assert re.search(why, problem)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (repeat_a_trial, "has more than one result that is no failure"),
        (read_test_while_choosing, "was measured on the test split, which only the confirmation may be"),
        (take_a_seed_that_was_not_declared, "has the seed 12, and its phase has those of 3000 to 3999"),
        (train_another_plan, "has a plan that is not that of its recipe"),
        (train_on_other_data, "has trials on different data"),
    ],
)
def test_records_that_cannot_be(finished, change, why):
    folder = finished / "results" / "s"
    found = [Record.from_dict(event["record"]) for event in forged(folder, change) if event["event"] == "record"]
    (problem,) = [
        *claims.repeated(found),
        *claims.test_problems(found),
        *claims.seed_problems(found, Settings.stored(finished / "results", "s"), PHASES),
        *claims.plan_problems(found),
        *claims.data_problems(found, Identity.read(folder)),
    ][:1]
    assert why in problem


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (raise_a_result, "lesson would have been decided otherwise"),
        (leave_a_bad_seed_out, "was planned and has no result"),
    ],
)
def test_a_forged_journal_is_refused(copy, change, why, capsys):
    rewrite(copy, forged(copy, change))
    code, said, refused = verified(copy, capsys)
    assert code == 1 and not said.startswith("search s") and any(why in line for line in refused), refused


def edit(file: Path, change) -> None:
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content))


def test_what_was_published_has_to_follow(copy, capsys):
    edit(copy / "best.yaml", lambda best: best["measured"].update(mean=0.99))
    edit(copy / "findings.json", lambda found: found["verdicts"][0].update(verdict="synergy"))
    rows = list(csv.reader((copy / "conflicts.csv").read_text().splitlines()))
    rows[1][rows[0].index("interaction")] = "0.25"
    (copy / "conflicts.csv").write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in rows) + "\n")
    (copy / "space.py").write_text((copy / "space.py").read_text() + "# edited\n")
    code, _, refused = verified(copy, capsys)
    assert code == 1
    assert refused == [
        "space.py is not the space that was searched",
        "conflicts.csv does not follow from the journal",
        "measured of best.yaml does not follow from the journal",
        "verdicts of findings.json does not follow from the journal",
    ]


def test_the_plan_of_the_recipe_has_to_be_its_hash(copy, capsys):
    edit(copy / "best.yaml", lambda best: best["plan"]["stages"][0].update(lr=0.5))
    assert any("and says that it is" in line for line in verified(copy, capsys)[2])


def test_other_data_than_those_of_the_search_are_refused(copy, tmp_path, capsys):
    data = tmp_path / "features.npz"
    original = json.loads((copy / "search.json").read_text())["data_root"]
    arrays = dict(np.load(Path(original) / "features.npz"))
    arrays["x_train"][0] += 1
    np.savez(data, **arrays)
    edit(copy / "search.json", lambda settings: settings.update(data_root=str(tmp_path)))
    code, _, refused = verified(copy, capsys)
    assert code == 1 and any(line.startswith("the data have changed") for line in refused)


def test_a_damaged_line_is_refused(copy, capsys):
    file = copy / "journal.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"final/accuracy": 0.', b'"final/accuracy": 1.', 1))
    code, _, refused = verified(copy, capsys)
    assert code == 2 and "was changed after it was written" in refused[0]


def test_proposals_of_another_optuna_are_not_judged(finished):
    """They are taken as they are, and the rest has to follow from them."""
    events = events_of(finished / "results" / "s")
    propose_something_else(events)
    assert replayed(finished, events).problems
    found = replayed(finished, events, proposals=False)
    assert ["adaptive-0003" in problem for problem in found.problems] == [True]  # its record is of the first plan
    assert replayed(finished, events_of(finished / "results" / "s"), proposals=False).problems == []


# --- two searches ---------------------------------------------------------------------------------------------


def test_a_search_agrees_with_its_copy(finished, copy, capsys):
    code, said, refused = verified(finished / "results" / "s", capsys, "--against", str(copy))
    trials = len([event for event in events_of(copy) if event["event"] == "record"])
    assert (code, refused) == (0, [])
    assert f"{trials} of {trials} trials that both have give the same metrics to the last digit" in said


def test_searches_that_contradict_each_other_are_refused(finished, copy, capsys):
    numbers = {"mean": 0.1, "low": 0.09, "high": 0.11}
    edit(copy / "best.yaml", lambda best: best["measured"].update(numbers, gain_over_baseline=numbers))
    gain = {"mean": 0.12, "low": 0.02, "high": 0.2}
    measured = {"mean": 0.8, "low": 0.7, "high": 0.9, "gain_over_baseline": gain}
    mine = claims.Verification("s", best={"recipe": "r", "title": "t", "measured": measured})
    found = comparison.compare(mine, copy)
    # of other recipes only the gain can be compared
    assert found.contradictions == [] and any("the best recipes are r here" in line for line in found.said)
    mine.best["recipe"] = yaml.safe_load((copy / "best.yaml").read_text())["recipe"]
    (said,) = comparison.compare(mine, copy).contradictions
    assert said.startswith("accuracy of the best recipe: 80.0 (70.0 to 90.0) here, 10.0 (9.0 to 11.0) there")
    assert verified(finished / "results" / "s", capsys, "--against", str(copy / "nowhere"))[0] == 2


def test_estimates_are_apart_where_chance_does_not_explain_it():
    # half widths 0.03 and 0.04: 0.05 is 1.96 standard errors of the difference
    assert not apart((0.5, 0.47, 0.53), (0.549, 0.509, 0.589))
    assert apart((0.5, 0.47, 0.53), (0.551, 0.511, 0.591))
    # among 20 pairs the 99.875 % point counts: 3.023 / 1.960 · 0.05 = 0.0771
    assert not apart((0.5, 0.47, 0.53), (0.577, 0.537, 0.617), 20)
    assert apart((0.5, 0.47, 0.53), (0.578, 0.538, 0.618), 20)
    assert not apart((0.5, float("nan"), float("nan")), (0.9, 0.89, 0.91))


# --- again elsewhere ------------------------------------------------------------------------------------------


def test_the_environment_is_locked(finished):
    folder = finished / "results" / "s"
    packages = environment()
    assert {"torch", "ray", "optuna", "mlflow", "numpy"} <= packages.keys()
    assert locked_version(folder, "torch") == packages["torch"]
    assert all(line.count("==") == 1 for line in (folder / "environment.txt").read_text().splitlines())


def test_the_script_asks_for_the_same_search(finished, tmp_path):
    folder = finished / "results" / "s"
    script = (folder / "reproduce.sh").read_text()
    subprocess.run(["sh", "-n", str(folder / "reproduce.sh")], check=True)
    source = script.split("<<'END'\n")[1].split("\nEND\n")[0]
    taken: dict = {}
    patched = (
        source.replace("import search\n", "").replace('__name__ == "__main__"', "True").replace("search.run", "take")
    )
    scope = {"take": lambda space, **options: taken.update(space=str(space), **options)}
    argv, sys.argv = sys.argv, ["-", str(folder)]
    try:
        exec(compile(patched, "reproduce.sh", "exec"), scope)
    finally:
        sys.argv = argv
    asked = make_request(taken).settings
    stored = Settings.stored(folder.parent, "s")
    places = {"space", "output", "tracking_uri"}
    same = [field.name for field in dataclasses.fields(Settings) if field.name not in places]
    assert {name: getattr(asked, name) for name in same} == {name: getattr(stored, name) for name in same}
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert f"#   recipe {best['recipe']} reaches" in script


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_reproduces_a_search(finished, tmp_path):
    folder = finished / "results" / "s"
    environ = {**os.environ, "LONGTAIL_PYTHON": sys.executable, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["sh", str(folder / "reproduce.sh"), str(tmp_path / "again")], env=environ, cwd=tmp_path, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert "gives the same metrics" in done.stdout or "give the same metrics" in done.stdout, done.stderr
