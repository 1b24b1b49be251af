"""Fixtures of tests that run whole searches."""

import logging
from pathlib import Path

import pytest
import ray

from search.run import WORKER_ENVIRONMENT
from tests.search.whole_searches import SPACE


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all searches in this process; they leave it as they find it."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
             runtime_env={"env_vars": WORKER_ENVIRONMENT})  # fmt: skip
    yield
    assert ray.is_initialized(), "a search has shut the caller's Ray down"
    ray.shutdown()


@pytest.fixture
def place(tmp_path, uri) -> Path:
    """A working directory with a space and a store."""
    (tmp_path / "small.py").write_text(SPACE)
    return tmp_path
