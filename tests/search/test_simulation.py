"""Searches to which everything happens that a seed draws; see `simulation`."""

import os

import pytest

from tests.search import simulation


@pytest.mark.parametrize("first", range(0, 8, 4))
def test_nothing_is_lost_repeated_or_decided_otherwise(first):
    drivers = [simulation.simulate(seed) for seed in range(first, first + 4)]
    assert sum(drivers) > len(drivers), "no driver was ever replaced"


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_seeds():
    """As many as LONGTAIL_SEEDS says, for a night."""
    for seed in range(8, 8 + int(os.environ.get("LONGTAIL_SEEDS", "10000"))):
        simulation.simulate(seed)


def test_a_failure_names_the_seed_that_repeats_it(monkeypatch):
    monkeypatch.setattr(simulation, "_check", lambda search, same: pytest.fail("something was lost"))
    with pytest.raises(pytest.fail.Exception) as failure:
        simulation.simulate(3)
    assert failure.value.__notes__ == ["python -m tests.search.simulation --first 3 --seeds 1"]
