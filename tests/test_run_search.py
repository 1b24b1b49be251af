"""The command: bad input ends with one sentence, exit code 2, and nothing left behind."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import run_search
from search.__main__ import parser
from search.request import make_request
from search.settings import Settings
from trainables.train import main as train

SPACE = """
from spaces.domain import Space, Stage, one_of, trick

SPACE = Space(stages=[Stage("first", length=1, {numbers}choose=[{choose}])], screen=[])
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "space.py")
    return tmp_path


def write(file: Path, choose="one_of(None, 'cost_sensitive')", numbers="") -> None:
    file.write_text(SPACE.format(choose=choose, numbers=numbers))


def refused(capsys, *arguments: str) -> str:
    """The sentence of a command that cannot be started."""
    there = tree(Path.cwd())
    assert run_search.main(["--seeds", "1", "--trials", "0", "--no-race", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("run_search.py: error: ")
    assert len(said.err.splitlines()) == 1, said.err
    assert said.out == ""
    assert tree(Path.cwd()) == there, "something was left behind"
    return said.err.removeprefix("run_search.py: error: ").rstrip("\n")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def test_a_val_that_cannot_be_chosen(place: Path, capsys) -> None:
    said = refused(capsys, "--space", "space.py", "--data", "csv:list.csv", "--val", "realistic")
    assert said.startswith("--val realistic: the val of csv is not cut from a balanced pool; that of cifar10-lt, ")
    said = refused(capsys, "--space", "space.py", "--val", "realistc")
    assert said == "--val must be balanced or realistic, got 'realistc': did you mean 'realistic'?"


@pytest.mark.parametrize(
    "choose, numbers, sentence",
    [
        ("'cost_sensitiv'", "", "unknown trick 'cost_sensitiv': did you mean 'cost_sensitive'?"),
        ("trick('cost_sensitive', power=-1.0)", "", "stage 'first': trick 'cost_sensitive': power must be a number in"),
        ("trick('focal', gama=1.0)", "", "stage 'first': trick 'focal' has no number 'gama': did you mean 'gamma'?"),
        ("'focal', 'softmax_focal'", "",
         "stage 'first': focal and softmax_focal all sit on seam 'loss', which takes one trick per stage"),
        ("", "lr=-0.1, ", "stage 'first': lr must be a number above 0, got -0.1"),
        ("", "members=2, ", "stage 'first': 2 members need a merge"),
        ("'ldam'", "", "stage 'first': ldam needs 'cosine', which nothing in the plan provides; cosine_head"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(place, capsys, choose, numbers, sentence):
    write(place / "space.py", choose, numbers)
    said = refused(capsys, "--space", "space.py")
    for part in sentence.split(" and "):
        assert part in said, said


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "--space bad.py: no such file; spaces/full_combo.py is the one to start from"),
        ("SPACE = (", "bad.py, line 1: not Python: '(' was never closed"),
        ("SPACES = 1", "bad.py: has no SPACE; it must define SPACE = Space(stages=[…]) from spaces.domain"),
    ],
)
def test_a_space_file_that_is_none(place, capsys, content, sentence):
    if content is not None:
        (place / "bad.py").write_text(content)
    assert refused(capsys, "--space", "bad.py") == sentence


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--data", "digit-lt"], "unknown data set 'digit-lt': did you mean 'digits-lt'?"),
        (["--model", "resnet9"], "--model: unknown model 'resnet9': did you mean 'resnet8'?"),
        (["--epochs-scale", "0"], "--epochs-scale must be above 0, got 0.0"),
        (["--max-concurrent", "0"], "--max-concurrent must be at least 1, got 0"),
        (["--name", "a/b"], "--name must be a name without slashes, quotes, percent signs and line ends, got 'a/b'"),
        (["--rungs", "half"], "--rungs must be fractions like 0.5,0.75, got 'half'"),
        (["--rungs", "0.75,0.5"], "--rungs must be ascending fractions in (0, 1), got 0.75, 0.5"),
        (["--rungs", "0.5,1.5"], "--rungs must be ascending fractions in (0, 1), got 0.5, 1.5"),
        (["--reduction-factor", "1"], "--reduction-factor must be above 1, got 1.0"),
        (
            ["--rung-score", "loss"],
            "--rung-score must be accuracy, adjusted, class_means or shortened, got 'loss'",
        ),
        (["--model", "resnet8?pretrained=nowhere.pth"], "nowhere.pth: no such file"),
        (["--model", "nowhere_at_all:net"], "--model: nowhere_at_all:net: there is no module 'nowhere_at_all' here"),
        (["--tricks", "nowhere"], "--tricks nowhere: no such folder"),
        (["--imbalance", "1000"], "imbalance"),
        (["--output", "space.py/results"], "--output space.py/results: cannot write there (Not a directory)"),
        (["--output", "/proc/results"], "--output /proc/results: cannot write there"),
        (["--store", "/proc/stages"], "--store /proc/stages: cannot write there"),
        (["--tracking-uri", "sqlite:////proc/nothing/mlflow.db"], "the MLflow store cannot be written"),
        (["--tracking-uri", "sqlite:///space.py/mlflow.db"], "the MLflow store cannot be written"),
        (["--val", "real"], "--val must be balanced or realistic, got 'real'"),
        (["--prior", "gone.csv"], "--prior gone.csv: cannot read the file (No such file or directory)"),
        (["--cost", "space.py"], "--cost space.py: has 1 row of costs, and the data 10 classes"),
        (["--design", "pair"], "--design pair: did you mean pairs? allowed are pairs, factorial, list:FILE"),
        (["--design", "factorial"], "--design factorial: no two of the 0 labels of screen= can be freely crossed"),
        (["--design", "list:gone.csv"], "--design list:gone.csv: cannot read the file (No such file or directory)"),
        (["--primary", "a+b"], "--primary: 'a+b' is not a pair of two different labels; write a×b or 'a x b'"),
        (["--primary", "a×b,c"], "--primary: 'c' is not a pair of two different labels"),
        (["--primary", "a×b"], "--primary: no label 'a' in screen="),
        (["--resume", "gone"], "--resume gone: no such search: there is no search in results"),
        (["--resume", "gone", "--name", "other"], "--name other: a resumed search keeps its name; leave --name out"),
    ],
)
def test_bad_options(place, capsys, arguments, sentence):
    assert sentence in refused(capsys, "--space", "space.py", *arguments)


def test_a_space_is_needed(place, capsys):
    assert refused(capsys).startswith("--space FILE is needed, e.g. --space spaces/full_combo.py")


def test_gpu_hours_of_trials_that_hold_no_gpu(place, capsys):
    said = refused(capsys, "--space", "space.py", "--gpu-hours", "2")
    assert said.startswith("--gpu-hours 2: trials use no GPU, so this limit would never be reached")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_without_a_gpu(place, capsys):
    assert refused(capsys, "--space", "space.py", "--gpus-per-trial", "0.25") == (
        "--gpus-per-trial 0.25: no GPU is visible on this machine; omit the option, or give the --address of a "
        "Ray cluster that has GPUs"
    )


def test_tricks_that_cannot_be_imported(place, capsys):
    (place / "more").mkdir()
    (place / "more" / "half_done.py").write_text("import nothing_like_it\n")
    said = refused_with_cache(capsys, "--space", "space.py", "--tricks", "more")
    assert "--tricks" in said and "half_done.py" in said and "No module named 'nothing_like_it'" in said


def refused_with_cache(capsys, *arguments: str) -> str:
    """Imported tricks leave Python's own cache."""
    assert run_search.main([*arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--settle"], "--settle needs a search that exists: name it with --resume"),
        (["--gpu-hours", "0"], "--gpu-hours must be above 0 hours, got 0.0"),
        (["--check-seeds", "-1"], "--check-seeds must be at least 0, got -1"),
    ],
)
def test_phases_that_cannot_be(place, capsys, arguments, sentence):
    assert refused(capsys, "--space", "space.py", *arguments) == sentence


def test_more_of_a_search_that_is_not_there(place, capsys):
    assert refused_with_cache(capsys, "--space", "space.py", "--trials", "+3") == (
        "run_search.py: error: --trials +3 adds to a search that exists: name it with --resume, or leave the plus out\n"
    )


def test_a_time_budget_is_given_anew_or_what_is_left(begun):
    settings = Settings.stored("results", "mine")
    dataclasses.replace(settings, time_budget=60.0, gpu_hours=2.0).save()
    # None: the journal knows what is left
    for given, expected in (([], None), (["--time-budget", "5"], 5.0)):
        resumed = make_request(vars(parser().parse_args(["--resume", "mine", *given]))).settings
        assert (resumed.time_budget, resumed.gpu_hours) == (expected, 2.0)


def test_settling_needs_pairs_that_were_declared(begun, capsys):
    said = refused_with_cache(capsys, "--resume", "mine", "--settle")
    assert "--resume mine --settle: no primary pairs were declared" in said and "--primary a×b" in said
    assert "--settle-budget limits --settle" in refused_with_cache(capsys, "--resume", "mine", "--settle-budget", "3")
    both = refused_with_cache(capsys, "--resume", "mine", "--settle", "--trials", "+3")
    assert "leave --trials and --seeds out" in both


def test_a_name_that_is_taken(place, capsys):
    (place / "results" / "mine").mkdir(parents=True)
    said = refused(capsys, "--space", "space.py", "--name", "mine")
    assert said == "--name mine: results/mine exists; choose another name, or --resume mine"


@pytest.fixture
def begun(place, empty_store) -> Path:
    """A search that was started and cut off before its first trial."""
    settings = Settings(name="mine", space="space.py", data="digits-lt", seeds=1, trials=0, race=False)
    settings.folder.mkdir(parents=True)
    (settings.folder / "space.py").write_text((place / "space.py").read_text())
    settings.save()
    shutil.copy(empty_store, place / "mlflow.db")
    return settings.folder


def test_what_a_resumed_search_must_not_change(begun, capsys):
    assert refused(capsys, "--resume", "mine", "--trials", "7") == (
        "--resume mine: --trials cannot change in a search that has begun; leave it out (--trials +N adds), "
        "or start a new search"
    )
    assert "--imbalance cannot change" in refused(capsys, "--resume", "mine", "--imbalance", "10")


def test_a_resumed_search_of_an_earlier_version_whose_space_has_changed(begun, place, capsys):
    write(place / "space.py", "one_of(None, 'class_balanced')")
    assert refused(capsys, "--resume", "mine", "--space", "space.py") == (
        "--resume mine: the space is not that of results/mine/space.py any more, and results from before and after "
        "must not be compared; undo that, or give --accept-changes as well, which starts mine-2 with the same settings "
        "on fresh seed blocks and leaves mine as it is"
    )


def test_changes_are_accepted_of_a_search_that_is_there(begun, capsys):
    said = refused(capsys, "--space", "space.py", "--accept-changes")
    assert said == "--accept-changes needs a search that exists: name it with --resume"


def test_a_dry_run_prints_and_leaves_nothing(place, capsys):
    there = tree(place)
    assert run_search.main(["--space", "space.py", "--dry-run", "--trials", "2", "--epochs-scale", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "What would run" in said and "first: length 1" in said and "How long that takes is unknown" in said
    assert tree(place) == there


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--val", "some"], "--val must be balanced or realistic, got 'some'"),
        (["--imbalance", "0.5"], "digits-lt: imbalance must lie between 1 and 100 "),
        (["--prior", "gone.csv"], "--prior gone.csv: cannot read the file"),
        (["--cost", "gone.csv"], "--cost gone.csv: cannot read the file"),
        (["--objective", "both"], "--objective both needs at least 50 val images per class"),
    ],
)
def test_a_dry_run_refuses_what_the_data_do_not_allow(place, capsys, arguments, sentence):
    assert refused(capsys, "--space", "space.py", "--dry-run", *arguments).startswith(sentence)


def test_a_recipe_that_names_an_unknown_trick(place, capsys):
    stage = {
        "name": "first", "epochs": 1, "carry": "start", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9,
        "nesterov": False, "batch_size": 64, "schedule": "one_cycle", "reduction": "expected", "members": 1,
        "eval_every": 1, "tricks": [{"name": "cost_sensitiv", "numbers": {}, "kept": False}],
    }  # fmt: skip
    recipe = {
        "format": 1, "recipe": "abc", "title": "a test", "data": {"name": "digits-lt", "imbalance": 50.0},
        "model": "resnet8", "plan": {"stages": [stage]}, "measured": {"values": [0.5], "seeds": [0]}, "conflicts": [],
        "provenance": {"search": "x", "tricks": [], "data_root": None},
    }  # fmt: skip
    (place / "best.yaml").write_text(json.dumps(recipe))
    there = tree(place)
    assert train(["best.yaml"]) == 2
    said = capsys.readouterr().err
    assert "best.yaml: " in said and "unknown trick 'cost_sensitiv': did you mean 'cost_sensitive'?" in said
    assert tree(place) == there


def test_help_imports_nothing_heavy():
    code = (
        "import sys, run_search\n"
        "try: run_search.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert out.stdout.rstrip().endswith("[]") and "--children-per-start" in out.stdout


def test_numbers_that_are_none(place, capsys):
    assert refused(capsys, "--space", "space.py", "--trials", "many") == ("--trials must be a whole number, got 'many'")
