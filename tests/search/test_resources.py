"""ResourceAllocator of GPUs by Ray's resource counting, with a GPU that Ray is only told of; the numbers by hand."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from rich.console import Console

from search.context import SearchContext
from search.execution import gpu_shares
from search.execution.gpu_shares import WORKER_ENVIRONMENT, ResourceAllocator, Share, most_demanding, propose_share
from search.request import Request
from search.run import launch
from search.settings import Settings, SettingsError, gpus
from search.workspace.space_file import load_space
from spaces.domain import Stage
from trainables.pipeline.footprint import Footprint

GREEDY = '''
from dataclasses import dataclass

import ray
import torch

from trainables.registry import trick


@trick(seam="weight", family="test", source="none")
@dataclass(frozen=True)
class Greedy:
    """Weights of 1, for which it wants so much of a GPU."""

    needs: float = {needs}

    def build(self, facts):
        held = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
        if held < self.needs:
            raise torch.OutOfMemoryError(f"tried to allocate {{self.needs}}, {{held:g}} is allowed")
        return lambda labels: torch.ones_like(labels, dtype=torch.float32)
'''

SPACE = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(
    stages=[Stage("first", length=1, choose=[CHOICES])],
    screen=[SCREEN],
)
"""


def found(**changes) -> Footprint:
    return Footprint(**{"memory": 2e9, "total": 24e9, "seconds": 60.0, "busy": 0.2} | changes)


@pytest.mark.parametrize(
    ("changes", "cpus", "count", "bound"),
    [
        # 24 / (1.2 · 2) = 10 by memory, 16 CPUs, 1.5 / 0.2 = 7.5 by utilisation
        ({}, 16, 8, "utilisation"),
        ({"busy": math.nan}, 16, 10, "memory"),
        ({"busy": 0.01}, 4, 4, "CPUs"),
        ({"memory": 30e9}, 16, 1, "memory"),
        ({"busy": 1.0}, 16, 2, "utilisation"),
        # nobody tells how much it takes: a whole one
        ({"memory": 0.0}, 16, 1, "memory"),
    ],
)
def test_the_proposed_share(changes, cpus, count, bound):
    made = propose_share(found(**changes), cpus, cpus_per_trial=1)
    assert made.share == 1 / count
    trials = "one trial" if count == 1 else f"{count} trials"
    assert f"{trials} on each GPU, limited by" in made.reason and made.reason.endswith(bound)


def test_the_sentence():
    assert propose_share(found(), 16, 2).reason == (
        "--gpus-per-trial auto: a trial takes 2.0 of 24.0 GB and keeps the GPU 20% busy, for about 60 s; "
        "8 trials on each GPU, limited by the CPUs"
    )


def test_what_is_measured_is_what_may_need_most(make_plan):
    small, large = (make_plan(Stage("a", epochs=1, batch_size=size)) for size in (16, 64))
    tricky = make_plan(Stage("a", epochs=1, batch_size=64, choose=["input_mixup"]))
    assert most_demanding([small, large, small, tricky], most=2) == [tricky, large]


def test_out_of_memory_is_tried_once_more_with_twice_the_share():
    shares = ResourceAllocator(Share(1, 0.25), Share(8, 1))
    for reason in ("OutOfMemoryError: CUDA out of memory", "torch.OutOfMemoryError: x", "MemoryError"):
        assert shares.retry(reason, reason, lost=False) == "out of memory with 0.25 GPUs; retrying with 0.5 GPUs"
        assert shares.share_of(reason) == Share(1, 0.5)
        assert shares.retry(reason, reason, lost=False) == ""
    assert (
        shares.why_failed("MemoryError", "MemoryError")
        == "MemoryError (with 0.5 GPUs, after 0.25 GPUs were not enough)"
    )
    assert shares.share_of("another") == Share(1, 0.25)
    assert shares.retry("another", "ValueError: this says OutOfMemoryError", lost=False) == ""


def test_what_torch_says_where_the_memory_of_the_machine_is_too_little():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    reason = f"{type(caught.value).__name__}: {str(caught.value).splitlines()[0]}"
    assert ResourceAllocator(Share(1, 0), Share(4, 0)).retry("a", reason, lost=False)


@pytest.mark.parametrize(
    ("reason", "is_memory"),
    [
        ("torch.AcceleratorError: CUDA error: out of memory", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("torch.AcceleratorError: CUDA error: device-side assert triggered", False),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", False),
        ("ValueError: RuntimeError: CUDA error: out of memory", False),
    ],
)
def test_other_words_for_out_of_memory(reason, is_memory):
    assert bool(ResourceAllocator(Share(1, 0.5), Share(8, 1)).retry("a", reason, lost=False)) == is_memory


def test_there_is_no_more_than_a_whole_gpu():
    assert ResourceAllocator(Share(1, 1.0), Share(8, 4)).retry("a", "OutOfMemoryError: x", lost=False) == ""
    three = ResourceAllocator(Share(1, 0.75), Share(8, 1))
    assert three.retry("a", "OutOfMemoryError: x", lost=False) and three.share_of("a") == Share(1, 1.0)


def test_without_a_gpu_it_is_the_neighbours_that_go():
    shares = ResourceAllocator(Share(1, 0), Share(4, 0))
    assert shares.retry("a", "MemoryError", lost=False) == "out of memory with 1 CPUs; retrying with 2 CPUs"
    assert ResourceAllocator(Share(4, 0), Share(4, 0)).retry("a", "MemoryError", lost=False) == ""


def test_a_lost_trial_is_begun_three_times_in_all():
    shares = ResourceAllocator(Share(1, 0), Share(4, 0))
    assert [bool(shares.retry("a", "its process is gone", lost=True)) for _ in range(4)] == [True, True, False, False]
    assert bool(shares.retry("b", "its process is gone", lost=True))
    assert "times" not in shares.why_failed("b", "its process is gone")
    assert shares.retry("c", "ValueError: a mistake", lost=False) == ""


def test_a_share_that_never_comes_is_given_up(monkeypatch):
    shares, clock = ResourceAllocator(Share(1, 0.25), Share(8, 1)), [100.0]
    monkeypatch.setattr(gpu_shares.time, "monotonic", lambda: clock[0])
    assert shares.retry("a", "OutOfMemoryError: x", lost=False)
    # while another of ours runs it may be that one which holds it
    for clock[0] in (100.0, 5_000.0):
        assert shares.starved({"a": set(), "b": set()}) == set()
    for clock[0] in (6_000.0, 6_600.0):
        assert shares.starved({"a": set()}) == set()
    clock[0] = 6_601.0
    assert shares.starved({"a": set()}) == {"a"}
    assert shares.why_starved("a").startswith(
        "out of memory with 0.25 GPUs, and 0.5 GPUs did not become free within 600 s"
    )
    shares.started("a")
    assert shares.starved({"a": set()}) == set()


def test_gpus_must_be_a_number_or_auto():
    with pytest.raises(SettingsError, match="--gpus-per-trial must be a number or auto, got 'all'"):
        gpus("all")


@pytest.fixture(scope="module")
def one_gpu():
    """A Ray that counts a GPU which is not there; trials train on the CPU."""
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
             logging_level=logging.ERROR, runtime_env={"env_vars": WORKER_ENVIRONMENT})  # fmt: skip
    yield
    ray.shutdown()


def run(place: Path, monkeypatch, tricks: dict[str, float], **settings) -> tuple[dict, list, dict]:
    """Records by title, the trials that were begun again, and what search.json says."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(SearchContext, "device", "cpu")
    (place / "tricks").mkdir()
    for name, needs in tricks.items():
        (place / "tricks" / f"{name}.py").write_text(GREEDY.format(needs=needs))
    choices = f"one_of(None, {', '.join(map(repr, tricks))})"
    screen = ", ".join(repr(f"first/{name}") for name in tricks)
    file = place / "space.py"
    file.write_text(SPACE.replace("CHOICES", choices).replace("SCREEN", screen))
    chosen = Settings(
        name="shares", space="space.py", data="digits-lt", seeds=1, trials=0, race=False, start_points=False,
        epochs_scale=0.1, tricks=(str(place / "tricks"),), **settings,
    )  # fmt: skip
    launch(Request(load_space(file), chosen, file), Console(quiet=True))
    folder = place / "results" / "shares"
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    records = {event["record"]["title"]: event["record"] for event in events if event["event"] == "record"}
    again = [event for event in events if event["event"] == "again"]
    return records, again, json.loads((folder / "search.json").read_text())


@pytest.mark.slow
def test_a_greedy_trial_gets_a_larger_share(one_gpu, tmp_path, monkeypatch):
    records, again, _ = run(tmp_path, monkeypatch, {"greedy": 0.5}, gpus_per_trial=0.25)
    assert {title: (record["outcome"], record["gpus"]) for title, record in records.items()} == {
        "baseline": ("finished", 0.25), "first/greedy": ("finished", 0.5),
    }  # fmt: skip
    assert [event["trial"] for event in again] == [records["first/greedy"]["trial"]]
    assert again[0]["reason"] == (
        "out of memory with 0.25 GPUs; retrying with 0.5 GPUs "
        "(OutOfMemoryError: tried to allocate 0.5, 0.25 is allowed)"
    )
    # a process of torch alone is larger than that, and than this machine it is not
    assert 50e6 < records["baseline"]["memory"] < 50e9


class Somebody:
    """Holds what it has."""


@pytest.mark.slow
def test_a_search_ends_where_a_larger_share_is_held_by_others(one_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_shares, "WAIT_SECONDS", 2.0)
    other = ray.remote(num_cpus=0, num_gpus=0.6)(Somebody).remote()
    try:
        records, again, _ = run(tmp_path, monkeypatch, {"greedy": 0.5}, gpus_per_trial=0.25)
    finally:
        ray.kill(other)
    failed = records["first/greedy"]
    assert records["baseline"]["outcome"] == "finished" and len(again) == 1
    assert failed["outcome"] == "failed" and "0.5 GPUs did not become free within 2 s" in failed["reason"]


@pytest.mark.slow
def test_a_greedy_trial_gets_it_once(one_gpu, tmp_path, monkeypatch):
    records, again, _ = run(tmp_path, monkeypatch, {"starved": 0.75}, gpus_per_trial=0.25)
    failed = records["first/starved"]
    assert records["baseline"]["outcome"] == "finished" and len(again) == 1
    assert (failed["outcome"], failed["gpus"], failed["reason"]) == (
        "failed", 0.5,
        "OutOfMemoryError: tried to allocate 0.75, 0.5 is allowed (with 0.5 GPUs, after 0.25 GPUs were not enough)",
    )  # fmt: skip


@pytest.mark.slow
def test_auto_measures_on_a_whole_gpu_and_keeps_what_it_found(one_gpu, tmp_path, monkeypatch):
    # measured where greedy has its GPU to itself; two CPUs make two trials of it, where greedy then has too little
    records, again, kept = run(tmp_path, monkeypatch, {"greedy": 0.75}, **gpus("auto"))
    assert (kept["gpus_per_trial"], kept["gpus_auto"]) == (0.5, False)
    assert kept["gpus_reason"].startswith("--gpus-per-trial auto: a trial takes ")
    assert kept["gpus_reason"].endswith("2 trials on each GPU, limited by the CPUs")
    assert {title: record["gpus"] for title, record in records.items()} == {"baseline": 0.5, "first/greedy": 1.0}
    assert {record["outcome"] for record in records.values()} == {"finished"} and len(again) == 1


def test_auto_refuses_what_does_not_fit_a_whole_gpu(one_gpu, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match=r"cannot be measured on a whole GPU \(.*tried to allocate 2.0, 1 is allow"):
        run(tmp_path, monkeypatch, {"starved": 2.0}, **gpus("auto"))
    assert not (tmp_path / "results" / "shares").exists()


def test_more_than_ray_has_is_refused(one_gpu):
    settings = Settings(name="x", space="s", data="digits-lt", gpus_per_trial=2.0)
    with pytest.raises(SettingsError, match="asks for 1 CPUs and 2 GPUs, but Ray has 2 CPUs and 1 GPUs"):
        gpu_shares.concurrent_trials(settings)


def test_a_store_that_a_node_does_not_see_is_refused(one_gpu, tmp_path, monkeypatch):
    settings = Settings(name="x", space="s", data="digits-lt", address="here:1", output=str(tmp_path))
    gpu_shares.check_storage(settings)
    assert not list((tmp_path / "stages").iterdir())
    # what is written here does not get there
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: 0)
    with pytest.raises(SettingsError, match=r"is not visible on node .* use a folder on storage that all nodes share"):
        gpu_shares.check_storage(settings)


def test_a_home_folder_that_cannot_be_written(tmp_path):
    """Ray keeps its token there; it gets one of the search's own instead, and asks for it."""
    script = (
        "import os, ray\nfrom search.execution import gpu_shares\nfrom search.settings import Settings\n"
        "gpu_shares.connect(Settings(name='x', space='s', data='digits-lt'))\n"
        "print(ray.get(ray.remote(num_cpus=0)(os.getenv).remote('RAY_AUTH_TOKEN')) is not None)\n"
        "ray.shutdown()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    root = str(Path(gpu_shares.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=environment | {"HOME": "/proc/nowhere", "PYTHONPATH": root},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr[-2000:]
