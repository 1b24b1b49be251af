"""Settings: checked, kept, read again."""

import dataclasses
import json
import math
import shutil
import subprocess

import numpy as np
import pytest

import search
from search.option import validate
from search.settings import OPTIONS, More, Settings, SettingsError
from spaces.domain import Space, SpaceError, Stage

PLAIN = Settings(name="mine", space="spaces/full_combo.py", data="digits-lt")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"trials": -1}, "--trials must be at least 0, got -1"),
        ({"seeds": -1}, "--seeds must be at least 0, got -1"),
        ({"children_per_start": 0}, "--children-per-start must be at least 1, got 0"),
        ({"time_budget": 0.0}, "--time-budget must be above 0 seconds, got 0.0"),
        ({"time_budget": float("nan")}, "--time-budget must be above 0 seconds, got nan"),
        ({"epochs_scale": 0.0}, "--epochs-scale must be above 0, got 0.0"),
        ({"epochs_scale": float("nan")}, "--epochs-scale must be above 0, got nan"),
        ({"cpus_per_trial": 0.0}, "--cpus-per-trial must be above 0, got 0.0"),
        ({"gpu_hours": 0.0}, "--gpu-hours must be above 0 hours, got 0.0"),
        ({"check_seeds": -1}, "--check-seeds must be at least 0, got -1"),
        ({"gpus_per_trial": -0.5}, "--gpus-per-trial must be at least 0, got -0.5"),
        ({"max_concurrent": 0}, "--max-concurrent must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"seeds": 201}, "--seeds must be at most 200, got 201"),
        ({"epochs_scale": float("inf")}, "--epochs-scale must be at most 10,000, got inf"),
        ({"time_budget": float("inf")}, "--time-budget must be at most 1,000,000,000, got inf"),
        ({"imbalance": float("nan")}, "--imbalance must be at most 1,000,000,000, got nan"),
        ({"rungs": (0.5, float("inf"))}, "--rungs must be a finite number, got inf"),
        ({"store": ""}, "--store must be a name, and not empty, got ''"),
    ],
)
def test_a_number_out_of_its_range(change, sentence):
    with pytest.raises(SettingsError) as caught:
        dataclasses.replace(PLAIN, **change)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a'b", 'a"b', "a`b", "a%b", "a\nb", ".", "..", " "])
def test_a_name_that_cannot_be(name):
    with pytest.raises(SettingsError, match="--name must be a name without slashes, quotes, percent signs"):
        dataclasses.replace(PLAIN, name=name)


@pytest.mark.parametrize("name", ["-a", ".a", "a\x7f", "a\u202eb", "stages", "x" * 201, "\ud800"])
def test_a_name_that_would_be_taken_for_something_else(name):
    with pytest.raises(SettingsError, match=r"--name must be (a name of visible characters|another|at most 200)"):
        dataclasses.replace(PLAIN, name=name)


def test_round_trip(tmp_path):
    settings = dataclasses.replace(
        PLAIN, output=str(tmp_path), rungs=(0.25, 0.5), tricks=("/more",), time_budget=60.0, reuse=False, imbalance=20.0
    )
    settings.folder.mkdir()
    settings.save()
    assert Settings.stored(str(tmp_path), "mine") == settings


PLACES = {
    "data": "folder:photos", "data_root": "data", "tricks": ("more", "/usr/share/tricks"), "store": "stages",
    "tracking_uri": "sqlite:///mlflow.db", "prior": "prior.csv", "cost": "/costs.csv", "design": "list:cells.csv",
    "model": "nets/mine.py:wide?depth=2",
}  # fmt: skip


def test_a_copied_or_moved_project_has_its_own_places(tmp_path, monkeypatch):
    (tmp_path / "before").mkdir()
    monkeypatch.chdir(tmp_path / "before")
    settings = dataclasses.replace(PLAIN, **PLACES)
    settings.folder.mkdir(parents=True)
    settings.save()
    written = json.loads((settings.folder / "search.json").read_text())
    assert str(tmp_path) not in json.dumps(written) and written["project"] == "../.."
    assert {name: written[name] for name in PLACES} == PLACES | {"tricks": list(PLACES["tricks"])}
    shutil.copytree(tmp_path / "before", tmp_path / "copy")
    (tmp_path / "before").rename(tmp_path / "after")
    for place in ("copy", "after"):
        root = tmp_path / place
        monkeypatch.chdir(root / "results")  # wherever it is resumed from
        found = Settings.stored(str(root / "results"), "mine")
        assert (found.data_root, found.tricks) == (f"{root}/data", (f"{root}/more", "/usr/share/tricks"))
        assert (found.store, found.store_place) == (f"{root}/stages", f"{root}/stages")
        assert found.tracking_uri == f"sqlite:///{root}/mlflow.db"
        assert (found.prior, found.cost, found.design) == (f"{root}/prior.csv", "/costs.csv", f"list:{root}/cells.csv")
        assert found.model == f"{root}/nets/mine.py:wide?depth=2"
        found.save()
        again = json.loads((root / "results" / "mine" / "search.json").read_text())
        assert again == written | {"output": "results"}


def test_what_is_no_local_place_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    apart = {"store": "s3://bucket/stages", "tracking_uri": "http://host:5000", "prior": "train", "model": "resnet8"}
    settings = dataclasses.replace(PLAIN, **apart)
    settings.folder.mkdir(parents=True)
    settings.save()
    found = Settings.stored("results", "mine")
    assert {name: getattr(found, name) for name in apart} == apart


def test_results_outside_the_project_know_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    settings = dataclasses.replace(PLAIN, output=str(tmp_path / "scratch"), tracking_uri="sqlite:///mlflow.db")
    settings.folder.mkdir(parents=True)
    settings.save()
    (tmp_path / "scratch").rename(tmp_path / "elsewhere")
    found = Settings.stored(str(tmp_path / "elsewhere"), "mine")
    assert found.tracking_uri == f"sqlite:///{tmp_path}/project/mlflow.db"


def test_settings_of_an_earlier_version_are_read(tmp_path, monkeypatch):
    """Fields that came later are at their defaults, and places are as they were written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "mine").mkdir(parents=True)
    old = {"name": "mine", "space": "s.py", "data": "digits-lt", "output": "results", "store": "kept", "trials": 7,
           "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "rungs": [0.5], "tricks": [], "primary": []}  # fmt: skip
    (tmp_path / "results" / "mine" / "search.json").write_text(json.dumps(old))
    found = Settings.stored("results", "mine")
    assert found == dataclasses.replace(
        PLAIN, space="s.py", store="kept", trials=7, tracking_uri=old["tracking_uri"], rungs=(0.5,)
    )


def test_a_copied_folder_does_not_resume_the_original(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PLAIN.folder.mkdir(parents=True)
    PLAIN.save()
    shutil.copytree("results/mine", "results/other")
    shutil.copytree("results", "backup")
    with pytest.raises(
        SettingsError, match=r"--resume other: results/other is a copy of .*results/mine, and both would"
    ):
        Settings.stored("results", "other")
    with pytest.raises(SettingsError, match=r"--resume mine: backup/mine is a copy of .*results/mine, and both would"):
        Settings.stored("backup", "mine")
    # as the sentence says
    shutil.rmtree("results/mine")
    assert Settings.stored("backup", "mine").name == "mine"
    with pytest.raises(SettingsError) as caught:
        Settings.stored("results", "other")
    assert str(caught.value) == (
        "--resume other: results/other holds the search 'mine', whose trials have that name in MLflow; rename the "
        "folder: mv results/other results/mine"
    )
    subprocess.run(str(caught.value).rpartition(": ")[2], shell=True, check=True)
    assert Settings.stored("results", "mine").name == "mine"


def test_results_that_were_moved_are_found_where_they_are(tmp_path):
    settings = dataclasses.replace(PLAIN, output=str(tmp_path / "before"))
    settings.folder.mkdir(parents=True)
    settings.save()
    (tmp_path / "before").rename(tmp_path / "after")
    assert Settings.stored(str(tmp_path / "after"), "mine").folder == tmp_path / "after" / "mine"


def test_a_search_that_does_not_exist(tmp_path):
    with pytest.raises(SettingsError, match=r"--resume mine: no such search: there is no search in .*"):
        Settings.stored(str(tmp_path), "mine")
    settings = dataclasses.replace(PLAIN, output=str(tmp_path))
    settings.folder.mkdir()
    settings.save()
    with pytest.raises(SettingsError, match=r"--resume mime: no such search: did you mean 'mine'\? searches in .*"):
        Settings.stored(str(tmp_path), "mime")


def stored(tmp_path, content: str | bytes) -> str:
    """The sentence with which a file of settings is refused."""
    file = tmp_path / "results" / "mine" / "search.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        Settings.stored(str(tmp_path / "results"), "mine")
    said = str(caught.value)
    assert said.startswith("--resume mine: ") and said.endswith("; undo what changed it, or start a new search")
    assert len(said.splitlines()) == 1 and len(said) < 900
    return said


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("", "cannot be read (Expecting value"),
        ("{", "cannot be read (Expecting property name"),
        (b"\xff\xfe{\x00}\x00", "cannot be read ('utf-8' codec can't decode"),
        ('{"name": "mine"}'.encode("utf-16"), "cannot be read ('utf-8' codec can't decode"),
        (b"\x00" * 20, "cannot be read (Expecting value"),
        ("[" * 100_000, "cannot be read (maximum recursion depth"),
        ('{"trials": ' + "9" * 5000 + "}", "cannot be read (Exceeds the limit"),
        ("[]", "must hold an object of settings, got []"),
        ("null", "must hold an object of settings, got None"),
        ('"name"', "must hold an object of settings, got 'name'"),
        ("7", "must hold an object of settings, got 7"),
        ("{}", "name is missing"),
        ('{"name": "mine", "space": "s"}', "data is missing"),
        (
            '{"name": "mine", "space": "s", "data": "d", "trails": 3}',
            "there is no option 'trails': did you mean 'trials'?",
        ),
        ('{"name": "mine", "space": "s", "data": "d", "": 3}', "there is no option '': known are name, space"),
        ('{"name": "mine", "space": "s", "data": "d", "project": 3}', "project must be the folder that the search"),
        ('{"name": "mine", "space": "s", "data": "d", "project": "a\\u0000b"}', "project must be the folder that"),
    ],
)
def test_damaged_settings(tmp_path, content, sentence):
    assert sentence in stored(tmp_path, content)


ODD = {
    "null": None, "true": True, "text": "six", "empty": "", "negative": -7, "fraction": 0.3, "large": 10**30,
    "larger": 10**400, "list": [1, "a", None], "empty list": [], "object": {"a": {"b": []}}, "nested": [[[[]]]],
    "nan": math.nan, "infinite": math.inf, "number as text": "5", "NUL": "a\0b", "half a character": "\ud800",
}  # fmt: skip
ALLOWED = {
    str: {"text", "number as text"}, bool: {"true"}, int: set(), float: {"fraction"},
    tuple[str, ...]: {"empty list"}, tuple[float, ...]: {"empty list"},
}  # fmt: skip
"""What is no fault for a setting of a type, whatever it means; `null` where the setting may be absent."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", OPTIONS.values(), ids=lambda field: field.name)
def test_every_odd_value_of_every_field_is_one_sentence(tmp_path, field, odd):
    base = field.type
    fields = dataclasses.asdict(PLAIN) | {field.name: ODD[odd]}
    text = json.dumps(fields)
    if field.name == "output" or odd in ALLOWED[base] | ({"null"} if field.optional else set()):
        return  # what the results lie in now counts
    if odd == "empty" and field.name in ("gpus_reason", "continues"):
        return  # text for people
    if field.name == "imbalance" and odd in ("negative", "fraction"):
        return
    if field.name == "name" and odd in ALLOWED[str]:
        return
    said = stored(tmp_path, text)
    assert field.name in said or field.flag in said


def test_the_words_of_a_wrong_type(tmp_path):
    def said(**change) -> str:
        where = f"--resume mine: {tmp_path}/results/mine/search.json: "
        return stored(tmp_path, json.dumps(dataclasses.asdict(PLAIN) | change)).removeprefix(where).partition("; ")[0]

    assert said(trials="six") == "trials must be a whole number, got 'six'"
    assert said(trials=2.5) == "trials must be a whole number, got 2.5"
    assert said(trials=True) == "trials must be a whole number, got True"
    assert said(race="no") == "race must be true or false, got 'no'"
    assert said(time_budget="1h") == "time_budget must be a number of seconds or none, got '1h'"
    assert said(rungs=0.5) == "rungs must be a list of numbers, got 0.5"
    assert said(tricks=["a", 1]) == "tricks must be a list of texts, got ['a', 1]"
    assert said(trials=-1) == "--trials must be at least 0, got -1"
    assert said(data={"a": "b" * 500}).startswith("data must be text, got {'a': 'bbb")


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"trials": "6"}, "search.run: trials must be a whole number, got '6'"),
        ({"trial": 6}, "search.run: there is no option 'trial': did you mean 'trials'?"),
        ({"time_budget": "1h"}, "search.run: time_budget must be a number of seconds or none, got '1h'"),
        ({"seeds": None}, "search.run: seeds must be a whole number, got None"),
        ({"seeds": 201}, "search.run: --seeds must be at most 200, got 201"),
        ({"epochs_scale": math.inf}, "search.run: --epochs-scale must be at most 10,000, got inf"),
        (
            {"gpu_hours": math.inf, "gpus_per_trial": 1},
            "search.run: --gpu-hours must be at most 1,000,000,000, got inf",
        ),
        ({"rungs": [math.nan]}, "search.run: --rungs must be a finite number, got nan"),
        ({"tricks": "more"}, "search.run: tricks must be a list of texts, got 'more'"),
        ({"primary": "a×b"}, "search.run: primary must be a list of texts, got 'a×b'"),
        ({"data": 3}, "search.run: data must be text, got 3"),
        ({"name": 3}, "search.run: name must be text, got 3"),
        ({"name": "stages"}, "search.run: --name must be another name than stages and pace.json, got 'stages'"),
        ({"race": object()}, "search.run: race must be true or false, got <object"),
        ({"gpus_per_trial": [1]}, "--gpus-per-trial must be a number or auto, got [1]"),
        ({"resume": True, "name": "gone"}, "--resume gone: no such search: "),
        ({"accept_changes": True}, "search.run: --accept-changes needs a search that exists: name it with --resume"),
        ({"settle": True}, "search.run: --settle needs a search that exists: name it with --resume"),
        ({"settle_budget": 0}, "search.run: --settle-budget must be at least 1, got 0"),
        ({"explain": "yes"}, "search.run: explain must be true or false, got 'yes'"),
        ({"dry_run": True}, "search.run: dry_run is an option of the command alone"),
        ({"val": "real"}, "search.run: --val must be balanced or realistic, got 'real'"),
        ({"objective": "accuracies"}, "search.run: --objective must be accuracy, harmonic_mean or both, got"),
        ({"precision": "fp16"}, "search.run: --precision must be fp32 or bf16, got 'fp16': did you mean 'bf16'?"),
    ],
)
def test_from_python_a_fault_is_one_sentence(tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        search.run(Space(stages=[Stage("a", epochs=1)]), **given)
    assert str(caught.value).startswith(sentence) and len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("space", [{}, 3, None, "", "a\0b", b"space.py"])
def test_from_python_a_space_that_is_none(space):
    with pytest.raises(SpaceError, match=r"--space .*(must be a Space, or the path|no such file)"):
        search.run(space)


def test_from_python_lists_paths_and_numpy_are_taken(tmp_path):
    given = {"name": "n", "space": "s", "data": "d", "trials": np.int64(3), "rungs": [np.float64(0.5)],
             "output": tmp_path, "epochs_scale": np.float32(0.5), "time_budget": 60}  # fmt: skip
    found = validate(Settings, given, "x: ")
    assert (found.trials, found.rungs, found.output, found.epochs_scale) == (3, (0.5,), str(tmp_path), 0.5)
    assert type(found.trials) is int and found.time_budget == 60.0


def test_a_resumed_search_is_given_the_right_types():
    with pytest.raises(SettingsError, match="--resume mine: max_concurrent must be a whole number or none, got '2'"):
        PLAIN.changed({"max_concurrent": "2"})
    with pytest.raises(SettingsError, match="--resume mine: there is no option 'trial': did you mean 'trials'"):
        PLAIN.changed({"trial": 3})


def test_what_a_resumed_search_may_change():
    given = {"time_budget": 60.0, "max_concurrent": 1, "gpus_per_trial": 0.25, "trials": 40}
    changed = PLAIN.changed(given)
    assert (changed.time_budget, changed.max_concurrent, changed.gpus_per_trial) == (60.0, 1, 0.25)


@pytest.mark.parametrize(
    "given, flags",
    [
        ({"race": False}, "--no-race"),
        ({"reuse": False, "seed": 1}, "--no-reuse, --seed"),
        ({"children_per_start": 2}, "--children-per-start"),
    ],
)
def test_what_a_resumed_search_must_not_change(given, flags):
    with pytest.raises(SettingsError) as caught:
        PLAIN.changed(given)
    assert str(caught.value) == (
        f"--resume mine: {flags} cannot change in a search that has begun; leave it out, or start a new search"
    )


def test_the_same_place_in_other_words_is_no_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(
        PLAIN, data="folder:photos", data_root=str(tmp_path / "data"), tricks=(str(tmp_path / "mine"),),
        model=f"{tmp_path}/net.py:wide",
    )  # fmt: skip
    same = {"data": "folder:data/photos", "tricks": ("./mine",), "model": "./net.py:wide"}
    assert settings.changed(same) == settings
    assert settings.changed({"data": "folder:photos", "data_root": "data"}) == settings
    streamed = dataclasses.replace(settings, data="folder:photos?feed=streamed", feed="streamed")
    assert streamed.changed(same) == streamed


def test_data_and_code_may_lie_elsewhere(tmp_path, monkeypatch):
    """Whether they are the same is judged by what they hold."""
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(PLAIN, data="folder:photos", data_root="/gone", tricks=("/gone/mine",))
    moved = settings.changed({"data_root": "here", "tricks": ["mine"], "store": "stages"})
    assert (moved.data_root, moved.tricks, moved.store) == (str(tmp_path / "here"), ("mine",), "stages")
    assert settings.changed({"data": "folder:/new/photos"}).data_root == "/new"
    with pytest.raises(SettingsError, match="--data cannot change"):
        settings.changed({"data": "folder:/new/others"})


def test_a_resumed_search_may_be_given_more():
    grown = PLAIN.changed({"trials": More(50), "seeds": More(2), "gpu_hours": 3.0, "check_seeds": 0})
    assert (grown.trials, grown.seeds, grown.gpu_hours, grown.check_seeds) == (90, 7, 3.0, 0)
    assert grown.primary == ()


def test_more_without_a_search_to_add_to():
    with pytest.raises(SettingsError) as caught:
        dataclasses.replace(PLAIN, trials=More(50))
    assert str(caught.value) == (
        "--trials +50 adds to a search that exists: name it with --resume, or leave the plus out"
    )


def test_a_number_that_does_not_add_is_refused_and_says_how():
    with pytest.raises(SettingsError) as caught:
        PLAIN.changed({"trials": 41})
    assert str(caught.value) == (
        "--resume mine: --trials cannot change in a search that has begun; leave it out (--trials +N adds), "
        "or start a new search"
    )


def test_what_a_resumed_search_was_given_more_of_is_kept(tmp_path):
    settings = dataclasses.replace(PLAIN, output=str(tmp_path), max_concurrent=2)
    settings.folder.mkdir()
    settings.save()
    settings.changed({"trials": More(5), "max_concurrent": 1, "gpu_hours": 2.0}).keep_changes()
    assert Settings.stored(str(tmp_path), "mine") == dataclasses.replace(settings, trials=45, gpu_hours=2.0)


def test_places(tmp_path):
    settings = dataclasses.replace(PLAIN, output=str(tmp_path))
    assert settings.folder == tmp_path / "mine" and settings.store_folder == tmp_path / "stages"
    assert dataclasses.replace(settings, store=str(tmp_path / "s")).store_folder == tmp_path / "s"
