"""`search.explain` on a journal made by hand."""

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from analysis.records.schema import Point, Record
from search import explain
from search.commands.explain import show_stop
from search.scheduling.early_stopping import Decision
from search.settings import Settings

PLAN = {"stages": [{"name": "first", "carry": "start"}, {"name": "second", "carry": "weights"}]}
COHORT = "first, with stages to come that carry weights"
STOP = Decision(0.5, "class_means", 0.25, 0.5, 4, COHORT, 5)


def record(name: str, value: float, stop: Decision | None = None, arm: str = "adaptive") -> Record:
    return Record(
        search="hand", trial=name, arm=arm, recipe="r", title=f"title of {name}", seed=1000, split_seed=1000,
        first_stage="", tricks=(), context="", outcome="finished" if stop is None else "stopped", choices={},
        plan=PLAN, data="digits-lt", model="resnet8", imbalance=50.0, fingerprint="", counts=(), val_counts=(),
        epochs=10, epochs_trained=10, images=1, steps=1, seconds=1.0, seconds_saved=0.0, reused=(),
        metrics={} if stop else {"final/accuracy": value},
        curve=(Point("first", 0, 5, 0.5, {"class_means": value, "accuracy": 0.1}),),
        reason=str(stop or ""), stop={} if stop is None else stop.to_dict(),
    )  # fmt: skip


RECORDS = [record("design-0-000", 0.9, arm="design"), *(record(n, v) for n, v in (("a", 0.5), ("b", 0.75), ("c", 0.3)))]
RECORDS.append(record("d", 0.25, STOP))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with one search in it."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        name="hand", space="x.py", data="digits-lt", rungs=(0.5,), rung_score="class_means", reduction_factor=3.0
    )
    settings.folder.mkdir(parents=True)
    settings.save()
    lines = [json.dumps({"event": "record", "record": one.to_dict()}) for one in RECORDS]
    # the last line was cut off by a crash
    (settings.folder / "journal.jsonl").write_text("\n".join([*lines, lines[-1][:50]]))
    return tmp_path


def said(capsys, *arguments: str) -> list[str]:
    assert explain.main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def test_all_that_were_stopped(place, capsys):
    assert said(capsys) == [
        "search hand: judged by class_means at 50% of the plan; the best 1/3 of a cohort continue, and a cohort of "
        "fewer than four stops none",
        "4 trials of the adaptive arm: 3 finished, 1 stopped",
        f"  50%, {COHORT}: 4 trials judged, 1 stopped",
        f"d stopped at 50% of its plan: class_means 25.0% is below 50.0%, the cut among 4 trials in {COHORT} "
        "[title of d]",
    ]


def test_how_one_trial_stood(place, capsys):
    assert said(capsys, "a")[1:] == [
        "a [title of a], seed 1000: finished",
        f"  50%, {COHORT}: class_means 50.0%, rank 2 of the 4 trials that have reached this rung so far (best 75.0%)",
        "  end: accuracy 50.0%",
    ]
    assert f"d [title of d], seed 1000: {STOP}" in said(capsys, "d", "--search", "hand")


def test_nothing_is_stopped_without_rungs(place, capsys):
    settings = dataclasses.replace(Settings.stored("results", "hand"), rungs=())
    settings.save()
    assert said(capsys)[0] == "search hand: no trial is stopped early"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--search", "hnd"], "--search hnd: no such search: did you mean 'hand'?"),
        (["--output", "elsewhere"], "there is no search in elsewhere; name its folder with --output"),
        (
            ["e"],
            "search 'hand' has no trial 'e' in its adaptive arm, the only one with early stopping; it has a, b",
        ),
        (["design-0-000"], "search 'hand' has no trial 'design-0-000' in its adaptive arm"),
    ],
)
def test_what_is_not_there(place, capsys, arguments, sentence):
    assert explain.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"python -m search.explain: error: {sentence}")


def test_a_stop_is_one_line_and_nothing_else_is(capsys):
    console = Console(width=60)
    for one in RECORDS:
        show_stop(console, one)
    assert capsys.readouterr().out == f"d {STOP} [title of d]\n"
