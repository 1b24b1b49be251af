"""Whole searches that something goes wrong in: tricks, disks, journals, stores, data, signals."""

import errno
import os
import signal
import subprocess
import time
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
import ray
import yaml
from mlflow import MlflowClient

import run_search
import search
from search import sync
from search.execution.ray_tune import TuneCallback
from search.export import main as export_main
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import Orchestrator
from search.workspace.folder import SPACE_HEAD
from tests.search.whole_searches import ALIKE, ONCE, SMALL, TINY, TRICK, journal, runs, texts

pytestmark = pytest.mark.usefixtures("cluster")


BROKEN = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(stages=[Stage("only", epochs=3, choose=[one_of(None, "{trick}", "softmax_focal")])],
              screen=["only/{trick}", "only/softmax_focal"])
"""


@pytest.mark.parametrize(
    "name, body, outcome, reason",
    [
        ("gives_nan", "return outputs.logits.sum(1) * float('nan')", "diverged", "loss"),
        ("raises", "raise RuntimeError('boom: it is a test')", "failed", "RuntimeError: boom: it is a test"),
    ],
)
def test_a_trick_that_goes_wrong_is_recorded_and_the_search_goes_on(place, name, body, outcome, reason, capsys):
    (place / "more").mkdir()
    (place / "more" / f"{name}.py").write_text(TRICK.format(what=name, body=body))
    (place / "broken.py").write_text(BROKEN.format(trick=name))
    arguments = ["--space", "broken.py", "--tricks", "more", "--name", name, "--max-concurrent", "2"]
    assert run_search.main([*arguments, "--seeds", "2", "--trials", "0", "--no-race", "--no-checks"]) == 0
    records = journal(place / "results" / name)
    outcomes = Counter((record["title"], record["outcome"]) for record in records.values())
    assert outcomes == {
        ("baseline", "finished"): 2, (f"only/{name}", outcome): 2, ("only/softmax_focal", "finished"): 2,
    }  # fmt: skip
    said = next(record["reason"] for record in records.values() if record["outcome"] == outcome)
    assert reason in said
    assert f"{outcome}: {said.splitlines()[0][:30]}" in capsys.readouterr().out
    statuses = Counter(
        (run.data.tags["outcome"], run.info.status) for run in runs(place, name) if run.data.tags["level"] == "trial"
    )
    assert statuses == {("finished", "FINISHED"): 4, (outcome, "FAILED" if outcome == "failed" else "FINISHED"): 2}


def test_a_search_in_which_everything_diverges_ends_with_1(place, capsys):
    (place / "more").mkdir()
    body = "return outputs.logits.sum(1) * float('nan')"
    (place / "more" / "always_nan.py").write_text(TRICK.format(what="NaN.", body=body))
    stage = "Stage('only', epochs=1, choose=['always_nan'])"
    (place / "nan.py").write_text(f"from spaces.domain import Space, Stage\nSPACE = Space(stages=[{stage}])\n")
    arguments = [
        "--space", "nan.py", "--tricks", "more", "--name", "nan", "--seeds", "2", "--trials", "0", "--no-race",
        "--no-checks",
    ]  # fmt: skip
    assert run_search.main(arguments) == 1
    assert {record["outcome"] for record in journal(place / "results" / "nan").values()} == {"diverged"}
    said = capsys.readouterr()
    assert "no trial" in said.out and said.err == ""
    assert {run.info.status for run in runs(place, "nan")} == {"FINISHED"}


@pytest.mark.slow
def test_a_listener_that_raises_does_not_end_the_search(place, monkeypatch, caplog):
    def broken(*_):
        raise OSError("the screen is gone")

    monkeypatch.setattr("search.console.display.Display.record", broken)
    result = search.run(TINY, name="deaf", **ONCE)
    assert result.complete and len(journal(result.folder)) == 4
    assert "design-0-000 could not be shown or tracked" in caplog.text


def test_a_full_disk_is_one_sentence_and_what_was_written_is_gone_on_with(place, monkeypatch, capsys):
    append, room = Journal._append, [3]  # the blocks that were asked for, and two records

    def full(self, line):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= 1
        append(self, line)

    (place / "tiny.py").write_text(f"{SPACE_HEAD}\nSPACE = {TINY!r}\n")
    options = ["--seeds", "2", "--trials", "0", "--no-race", "--no-checks", "--max-concurrent", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_append", full)
        assert run_search.main(["--space", "tiny.py", "--name", "full", *options]) == 2
    said = capsys.readouterr()
    assert "results/full/journal.jsonl: cannot be written (No space left on device)" in said.err
    assert said.err.count("\n") == 1 and "Traceback" not in said.out
    assert said.err.endswith("then resume the search: python run_search.py --resume full\n")
    before = journal(place / "results" / "full")
    assert len(before) == 2
    assert run_search.main(["--resume", "full"]) == 0
    after = journal(place / "results" / "full")
    assert len(after) == 4 and texts(before).items() <= texts(after).items()


def test_a_damaged_journal_is_one_sentence_and_its_remedy_works(place, capsys):
    (place / "tiny.py").write_text(f"{SPACE_HEAD}\nSPACE = {TINY!r}\n")
    options = ["--seeds", "2", "--trials", "0", "--no-race", "--no-checks", "--max-concurrent", "2"]
    assert run_search.main(["--space", "tiny.py", "--name", "hurt", *options]) == 0
    file = place / "results" / "hurt" / "journal.jsonl"
    whole, content = journal(file.parent), file.read_bytes()
    for damaged in (content.replace(b"accuracy", b"accur\xffcy", 1), content.replace(b"0.", b"0.9", 1)):
        file.write_bytes(damaged)
        capsys.readouterr()
        assert run_search.main(["--resume", "hurt"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("run_search.py: error: results/hurt/journal.jsonl: line 2 ") and said.count("\n") == 1
        assert file.read_bytes() == damaged
    subprocess.run(said.strip().rpartition("again: ")[2], shell=True, check=True, cwd=place)
    assert run_search.main(["--resume", "hurt"]) == 0
    after = journal(file.parent)
    assert {name: record["metrics"] for name, record in after.items()} == {
        name: record["metrics"] for name, record in whole.items()
    }


def test_a_store_that_goes_away_costs_no_result_and_is_written_later(place, monkeypatch, capsys, caplog):
    taken = Orchestrator.record

    def deleting(self, record):
        taken(self, record)
        if len(self.state.records) == 2:
            (place / "mlflow.db").rename(place / "away.db")

    monkeypatch.setattr(Orchestrator, "record", deleting)
    result = search.run(TINY, name="away", **ONCE)
    assert result.complete and result.best is not None
    said = capsys.readouterr().out
    assert 0 < said.index("Best recipe") < said.index("Where to look next") < said.index("MLflow lacks ")
    assert "mlflow.db was deleted or replaced while the search ran" in said and "Traceback" not in said + caplog.text
    assert said.rstrip().endswith("write it later with: python -m search.sync away")
    assert sync.main(["away"]) == 0
    tracked = runs(place, "away")
    trials = [run for run in tracked if run.data.tags["level"] == "trial"]
    assert {run.data.tags["trial"] for run in trials} == set(journal(result.folder))
    assert {run.info.status for run in tracked} == {"FINISHED"}
    (own,) = (run for run in tracked if run.data.tags["level"] == "search")
    assert own.data.tags["looks"] == "[]" and "Best recipe" in own.data.tags["mlflow.note.content"]


def test_an_error_in_the_driver_loses_nothing_and_says_how_to_go_on(place, monkeypatch, capsys):
    taken = Orchestrator.record

    def broken(self, record):
        taken(self, record)
        if len(self.state.records) == 2:
            raise OSError("no space left on device")

    monkeypatch.setattr(Orchestrator, "record", broken)
    with pytest.raises(Exception, match="no space left on device"):
        search.run(TINY, name="cut", **ONCE)
    assert "python run_search.py --resume cut" in capsys.readouterr().out
    before = journal(place / "results" / "cut")
    assert len(before) == 2 and {record["outcome"] for record in before.values()} == {"finished"}
    assert next(run for run in runs(place, "cut") if run.data.tags["level"] == "search").info.status == "KILLED"
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert run_search.main(["--resume", "cut"]) == 0
    after = journal(place / "results" / "cut")
    assert len(after) == 4 and texts(before).items() <= texts(after).items()


@pytest.mark.slow
def test_a_report_that_cannot_be_written_does_not_hide_the_results(place, monkeypatch, capsys):
    monkeypatch.setattr("search.console.summary.write_report", lambda *_: 1 / 0)
    result = search.run(TINY, name="mute", **ONCE)
    out = capsys.readouterr().out
    assert "report.html could not be written: division by zero" in out and "Best recipe" in out
    assert (result.folder / "best.yaml").exists()
    assert {run.info.status for run in runs(place, "mute")} == {"FINISHED"}


def test_data_that_change_between_two_runs_are_never_mixed(place, capsys):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1), dtype=np.uint8)
    labels, names = np.arange(60) % 3, np.array(["ant", "bee", "cat"])
    np.savez(place / "own.npz", x=images, y=labels, classes=names)
    few = ONCE | {"seeds": 1, "check_seeds": 0, "start_points": False}
    assert search.run(TINY, name="changing", data="npz:own.npz", **few).complete
    folder = place / "results" / "changing"
    before = (folder / "journal.jsonl").read_bytes()
    labels[[1, 2]] = labels[[2, 1]]
    np.savez(place / "own.npz", x=images, y=labels, classes=names)
    capsys.readouterr()
    for more in ([], ["--trials", "+1"], ["--seeds", "+1"]):
        assert run_search.main(["--resume", "changing", *more]) == 2
        said = capsys.readouterr().err
        assert "bee has other images or labels than before (20, as before), cat has other images or labels" in said
    assert export_main(["--search", "changing"]) == 2
    assert "search 'changing': the data have changed: bee has other" in capsys.readouterr().err
    assert export_main(["--search", "changing", "--accept-changes", "--out", "own.yaml"]) == 0
    assert "bee has other" in yaml.safe_load((place / "own.yaml").read_text())["provenance"]["changed_since"][0]

    result = search.run(TINY, name="changing", resume=True, accept_changes=True)
    out = capsys.readouterr().out
    assert result.complete and result.name == "changing-2"
    assert "changing stays as it is; changing-2 starts with the same settings on fresh seed blocks." in out
    assert (folder / "journal.jsonl").read_bytes() == before
    old, new = (list(journal(place / "results" / name).values()) for name in ("changing", "changing-2"))
    assert {record["seed"] for record in old} == {0} and {record["seed"] for record in new} == {10_000}
    assert not {record["fingerprint"] for record in old} & {record["fingerprint"] for record in new}
    assert "the data have changed: bee has other" in (result.folder / "report.html").read_text(encoding="utf-8")
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("longtail/npz:own.npz")
    trials = client.search_runs([experiment.experiment_id], "tags.level = 'trial'")
    assert Counter(run.data.tags["search"] for run in trials) == {"changing": 2, "changing-2": 2}
    # and the new one goes on as any other
    assert run_search.main(["--resume", "changing-2"]) == 0
    assert "changing-2 is finished" in capsys.readouterr().out


def test_a_start_that_fails_leaves_its_name_free(place, monkeypatch, capsys):
    few = ONCE | {"seeds": 1, "check_seeds": 0, "start_points": False}
    with pytest.raises(ValueError, match="there is no "):
        search.run(TINY, name="again", data="npz:gone.npz", **few)
    assert not (place / "results" / "again").exists()
    for error in (KeyboardInterrupt("no luck"), RuntimeError("no luck")):
        with monkeypatch.context() as patch, pytest.raises(type(error), match="no luck"):
            # after MLflow has the search, before anything is trained
            patch.setattr("search.execution.ray_tune.Tuner", Mock(side_effect=error))
            search.run(TINY, name="again", **few)
        assert not (place / "results" / "again").exists()
        assert runs(place, "again") == []
    assert search.run(TINY, name="again", **few).complete


def test_a_time_budget_ends_the_search_gracefully(place, capsys):
    result = search.run("small.py", name="brief", time_budget=0.01, **SMALL)
    assert not result.complete and result.best is None
    assert "python run_search.py --resume brief --time-budget 0.01\n" in capsys.readouterr().out
    before = journal(result.folder)
    assert run_search.main(["--resume", "brief"]) == 2
    said = capsys.readouterr().err
    assert "--resume brief: budget exhausted; to continue, grant as much again: --time-budget 0.01" in said
    assert journal(result.folder) == before and runs(place, "brief")[0].info.status == "KILLED"


def test_a_search_that_fails_alike_in_every_trial_says_why_and_ends(place, tricks_folder, capsys):
    (tricks_folder / "always.py").write_text(
        TRICK.format(what="Fails.", body="raise RuntimeError(f'boom {id(generator)}')")
    )
    (place / "alike.py").write_text(ALIKE)
    flags = ["--seeds", "4", "--trials", "4", "--max-concurrent", "1", "--no-start-points", "--no-checks", "--no-race"]
    arguments = ["--space", "alike.py", "--tricks", str(tricks_folder), *flags, "--name", "alike"]
    assert run_search.main(arguments) == 1
    said = capsys.readouterr().out
    assert "The first 3 trials failed for the same reason: RuntimeError: boom" in said
    assert "python run_search.py --resume alike" in said
    records = journal(place / "results" / "alike")
    assert [record["outcome"] for record in records.values()] == ["failed"] * 3
    assert not list(place.rglob("error.pkl"))


def test_a_full_disk_is_a_sentence_and_the_search_is_resumed(place, capsys, monkeypatch):
    write, room = Journal.write, [2]

    def full(self, event, **content):
        if event == "record":
            room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        write(self, event, **content)

    flags = ["--seeds", "2", "--trials", "0", "--epochs-scale", "0.1", "--max-concurrent", "2", "--no-start-points"]
    flags += ["--no-checks", "--no-race", "--name", "full"]
    monkeypatch.setattr(Journal, "write", full)
    assert run_search.main(["--space", "small.py", *flags]) == 1
    said = capsys.readouterr()
    assert "journal.jsonl cannot be written: No space left on device; make room" in said.out
    assert "Best recipe" in said.out and "--resume full" in said.out
    assert "Traceback" not in said.out + said.err
    monkeypatch.setattr(Journal, "write", write)
    assert len(journal(place / "results" / "full")) == 2
    assert run_search.main(["--resume", "full"]) == 0
    assert len(journal(place / "results" / "full")) == 14


def test_an_interrupt_waits_for_the_end_of_an_event(place, monkeypatch):
    """Ctrl-C never falls into a native call or a half-written journal entry."""
    seen = []
    take = TuneCallback._record

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        seen.append(take(self, *arguments))

    monkeypatch.setattr(TuneCallback, "_record", interrupted)
    result = search.run(TINY, name="once", **ONCE)
    assert not result.complete and len(seen) == len(journal(result.folder)) == 1
    # in the caller's Ray nothing is left behind that would hold a slot
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_an_interrupt_while_the_searcher_is_asked_is_one(place, monkeypatch, number):
    """Nothing runs then, so that Tune takes the search for finished."""
    hand_out, seen = Orchestrator.next, []

    def interrupted(self):
        if len(self.state.records) == 2 and not seen:
            seen.append(number)
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        return hand_out(self)

    monkeypatch.setattr(Orchestrator, "next", interrupted)
    (place / "tiny.py").write_text(f"{SPACE_HEAD}\nSPACE = {TINY!r}\n")
    options = ["--seeds", "2", "--trials", "0", "--no-race", "--no-checks", "--max-concurrent", "1"]
    assert run_search.main(["--space", "tiny.py", "--name", "asked", *options]) == (
        75 if number == signal.SIGUSR1 else 130
    )
    assert seen and len(journal(place / "results" / "asked")) == 2
