"""Settings: checked, kept, read again."""

import dataclasses
import json

import pytest

from search.settings import More, Settings, SettingsError, flag

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


def test_round_trip(tmp_path):
    settings = dataclasses.replace(
        PLAIN, output=str(tmp_path), rungs=(0.25, 0.5), tricks=("more",), time_budget=60.0, reuse=False, imbalance=20.0
    )
    settings.folder.mkdir()
    settings.save()
    assert Settings.stored(str(tmp_path), "mine") == settings


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


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"rungs": [], "tricks": [], "gone": 1})])
def test_damaged_settings(tmp_path, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "search.json").write_text(content)
    with pytest.raises(SettingsError, match=r"--resume mine: .*search.json is damaged or of another version"):
        Settings.stored(str(tmp_path), "mine")


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


def test_the_same_folder_in_other_words_is_no_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(PLAIN, data_root=str(tmp_path / "data"), tricks=(str(tmp_path / "mine"),))
    assert settings.changed({"data_root": "data", "tricks": ("./mine",)}) == settings
    with pytest.raises(SettingsError, match="--data-root, --tricks cannot change"):
        settings.changed({"data_root": "other", "tricks": ("mine", "more")})


def test_a_resumed_search_may_be_given_more():
    grown = PLAIN.changed({"trials": More(50), "seeds": More(2), "gpu_hours": 3.0, "check_seeds": 0})
    assert (grown.trials, grown.seeds, grown.gpu_hours, grown.check_seeds) == (90, 7, 3.0, 0)
    assert grown.primary == ()


def test_more_without_a_search_to_add_to():
    with pytest.raises(SettingsError) as caught:
        dataclasses.replace(PLAIN, trials=More(50))
    assert str(caught.value) == (
        "--trials +50 adds to a search that is there: give its name with --resume, or leave the plus out"
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


def test_every_option_of_the_command_is_a_setting():
    import run_search

    options = {action.option_strings[-1] for action in run_search.parser()._actions if action.option_strings}
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert set(run_search.GIVEN) <= fields
    assert {flag(name) for name in fields} <= options
