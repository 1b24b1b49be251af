"""What Ray says of a trial that failed, and when no further one is handed out."""

from types import SimpleNamespace

import pytest
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from search.conductor import Conductor, _told
from search.resources import Share, Shares


def in_step(error: Exception) -> RayTaskError:
    return RayTaskError("step", "Traceback\n  in train_epoch\nValueError: it", error)


def in_setup(error: Exception) -> ActorDiedError:
    """As Ray tells an error of a process that had not begun."""
    lines = f"Traceback\n  in setup\ntorch.{type(error).__name__}: {error}"
    return ActorDiedError(RayTaskError("__init__", lines, error, actor_id="00"))


@pytest.mark.parametrize(
    ("error", "said", "lost"),
    [
        (in_step(torch.OutOfMemoryError("CUDA out of memory")), "OutOfMemoryError: CUDA out of memory", False),
        (in_setup(torch.OutOfMemoryError("CUDA")), "torch.OutOfMemoryError: CUDA", False),
        (in_step(ValueError("a mistake")), "ValueError: a mistake", False),
        # CUDA's errors go on with advice
        (in_step(RuntimeError("CUDA error: x\nCompile with `Y`.")), "RuntimeError: CUDA error: x", False),
        (in_setup(RuntimeError("CUDA error: x\nCompile with `Y`.")), "torch.RuntimeError: CUDA error: x", False),
        (in_step(AssertionError()), "AssertionError", False),
        (ActorDiedError(), "ActorDiedError: its process is gone", True),
        (NodeDiedError("node 1"), "NodeDiedError: its process is gone", True),
        (WorkerCrashedError(), "WorkerCrashedError: its process is gone", True),
        # Ray ends the process that takes most, where the machine has no more
        (OutOfMemoryError("the node"), "OutOfMemoryError: its process is gone", True),
    ],
)
def test_what_an_error_says(tmp_path, error, said, lost):
    file = tmp_path / "error.pkl"
    file.write_bytes(cloudpickle.dumps(error))
    assert _told(SimpleNamespace(pickled_error_file=str(file))) == (said, lost)


def test_an_error_that_cannot_be_read_is_not_a_lost_process():
    assert _told(SimpleNamespace(pickled_error_file=None)) == ("an error that cannot be read", False)


class Tasks:
    """An agenda that always has a next task."""

    finished = False

    def __init__(self):
        self.running: dict[str, set] = {}

    def next(self):
        task = SimpleNamespace(id=f"t{len(self.running)}")
        self.running[task.id] = set()
        return task


def test_nothing_is_handed_out_while_a_larger_share_is_waited_for():
    tasks, shares = Tasks(), Shares(Share(1, 0.25), Share(4, 1))
    conductor = Conductor(tasks, lambda task: {}, shares)
    assert conductor.suggest("a") == {"task": "t0", "spec": "{}", "cpus": 1, "gpus": 0.25}
    assert shares.again("t0", "OutOfMemoryError: x", lost=False)
    # it is back in the queue, and has to be handed out itself
    del tasks.running["t0"]
    assert conductor.suggest("b") == {"task": "t0", "spec": "{}", "cpus": 1, "gpus": 0.5}
    assert conductor.suggest("c") is None
    shares.started("t0")
    assert conductor.suggest("d") == {"task": "t1", "spec": "{}", "cpus": 1, "gpus": 0.25}
