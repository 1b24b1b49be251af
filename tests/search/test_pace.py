"""How long an epoch takes: kept, found again, and never in the way."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from search.execution import epoch_time
from search.execution.epoch_time import EpochTime
from search.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(name="x", space="s", data="digits-lt", output=str(tmp_path / "results"))


def test_what_is_kept_is_known_for_the_same_trials_alone(settings):
    assert epoch_time.known(settings, "resnet8") is None
    epoch_time.keep(settings, "resnet8", EpochTime(0.25, "search x"))
    epoch_time.keep(settings, "resnet32", EpochTime(4.0, "search x"))
    assert epoch_time.known(settings, "resnet8") == EpochTime(0.25, "search x")
    assert epoch_time.known(settings, "resnet32") == EpochTime(4.0, "search x")
    for other in ({"imbalance": 10.0}, {"gpus_per_trial": 0.5}, {"data": "cifar10-lt"}, {"output": "elsewhere"},
                  {"precision": "bf16"}, {"graph": "on"}):  # fmt: skip
        assert epoch_time.known(dataclasses.replace(settings, **other), "resnet8") is None, other


def test_a_damaged_file_is_as_none(settings):
    epoch_time.keep(settings, "resnet8", EpochTime(0.25, "search x"))
    key = next(iter(json.loads(epoch_time.file_of(settings).read_text())))
    odd = ['{"source": "x"}', '{"source": 1, "seconds": 1}', '{"source": "x", "seconds": "fast"}', "3", "null"]
    odd += [f'{{"source": "x", "seconds": {seconds}}}' for seconds in ("NaN", "-1", "true", "1e999", "1" + "0" * 400)]
    for text in ("{", "[1]", "", "[" * 100_000, *(f"{{{json.dumps(key)}: {value}}}" for value in odd)):
        epoch_time.file_of(settings).write_text(text)
        assert epoch_time.known(settings, "resnet8") is None
    epoch_time.keep(settings, "resnet8", EpochTime(0.5, "search y"))
    assert epoch_time.known(settings, "resnet8") == EpochTime(0.5, "search y")


def test_a_folder_that_cannot_be_written_costs_nothing_else(settings, tmp_path):
    (tmp_path / "results").write_text("a file")
    epoch_time.keep(settings, "resnet8", EpochTime(0.25, "search x"))
    assert epoch_time.known(settings, "resnet8") is None


def trial(seconds: float, epochs: int, reused: tuple[str, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(seconds=seconds, epochs_trained=epochs, reused=reused)


def test_the_median_over_trials_that_trained_all_of_themselves():
    # 0.5, 0.25 and 3 seconds per epoch; the others re-used a stage, or were over before an epoch was
    records = [trial(5, 10), trial(2, 8), trial(30, 10), trial(9, 1, ("first",)), trial(1, 0)]
    assert epoch_time.of_records(records) == 0.5
    assert epoch_time.of_records(records[3:]) is None
