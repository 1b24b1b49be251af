"""One training step as one CUDA graph: the host launches once instead of some hundred times.

Opt-in (`--graph on`): written after PyTorch's notes on CUDA graphs, not yet run on a GPU; a test for one is marked
`gpu`. Forward, loss, backward and the optimiser's step are captured for full batches; drawing, augmentation, the mix,
after-step tricks and a shorter last batch stay outside. Nothing in a step draws on the device, so there is no
generator to register. Where a capture fails, the stage is trained step by step as without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from trainables.batch import Batch, Outputs
from trainables.models import Network
from trainables.plan import StagePlan
from trainables.training.numerics import plain_sgd
from trainables.training.own_modules import needs_whole_batches

log = logging.getLogger(__name__)

EAGER = ("weight", "loss", "penalty")
"""Seams whose tricks may read numbers that change by epoch, or draw on the host, within a step."""

WARM_UP = 3
"""Steps on a side stream before the capture, as PyTorch asks for; undone afterwards."""

Made = tuple[Batch, Outputs, Tensor]
Step = Callable[[Batch], Made]


def can_be_captured(stage: StagePlan, device: torch.device) -> bool:
    """Whether every full batch of a stage is the same work on the device, and the device has graphs."""
    same = plain_sgd(stage) and not stage.views and not any(stage.on(seam) for seam in EAGER)
    return device.type == "cuda" and same and needs_whole_batches(stage) is None


class GraphedStep:
    """A step of one batch size, captured at its first batch and replayed afterwards.

    Args:
        step: Forward, loss, backward and the optimiser's step of a batch: the batch, its outputs and its loss.
        network: The network that the step changes.
        optimiser: The optimiser of the step; its learning rates become tensors on the device, which are
            filled and not replaced.
        size: Images of a full batch.
    """

    def __init__(self, step: Step, network: Network, optimiser: torch.optim.Optimizer, size: int) -> None:
        self._step, self._network, self._optimiser, self._size = step, network, optimiser, size
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False
        self._batch: Batch | None = None
        self._made: Made | None = None
        device = next(network.parameters()).device
        for group in optimiser.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)

    def __call__(self, batch: Batch) -> Made:
        """The batch, its outputs and loss, which are overwritten by the next one."""
        if self._failed or len(batch.index) != self._size:
            return self._step(batch)
        if self._graph is None and not self._capture(batch):
            return self._step(batch)
        assert self._graph is not None and self._batch is not None and self._made is not None
        if not _same_shape(self._batch, batch):
            return self._step(batch)
        for to, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            to.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._made

    def _capture(self, batch: Batch) -> bool:
        weights = {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}
        momentum = {
            parameter: None
            if (known := self._optimiser.state[parameter].get("momentum_buffer")) is None
            else known.clone()
            for group in self._optimiser.param_groups
            for parameter in group["params"]
        }
        self._batch = _copy_batch(batch)
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._step(self._batch)
            torch.cuda.current_stream().wait_stream(side)
            self._optimiser.zero_grad(set_to_none=True)  # gradients of the capture live in the graph's own memory
            graph = torch.cuda.CUDAGraph()
            # thread_local: a thread that pins memory for a streamed feed may do so meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                made, outputs, loss = self._step(self._batch)
            # the autograd graph that they hold would tie later plain steps to the stream of the capture
            self._made, self._graph = (made, outputs.detached(), loss), graph
        except RuntimeError as error:
            self._failed = True
            log.warning("a step could not be captured as a CUDA graph (%s); training continues without", error)
        # in place: the graph knows these addresses. A momentum of zeros is the same as none yet.
        with torch.no_grad():
            for name, tensor in self._network.state_dict().items():
                tensor.copy_(weights[name])
            for parameter, before in momentum.items():
                buffer = self._optimiser.state[parameter].get("momentum_buffer")
                if buffer is not None:
                    buffer.zero_() if before is None else buffer.copy_(before)
        return not self._failed


def _tensors(batch: Batch) -> list[Tensor]:
    blend = [] if batch.blend is None else [batch.blend.order, batch.blend.share]
    return [batch.images, batch.index, batch.y, batch.share, *blend]


def _same_shape(one: Batch, other: Batch) -> bool:
    layers = (None if batch.blend is None else batch.blend.layer for batch in (one, other))
    shapes = [[(tensor.shape, tensor.dtype) for tensor in _tensors(batch)] for batch in (one, other)]
    return len(set(layers)) == 1 and shapes[0] == shapes[1]


def _copy_batch(batch: Batch) -> Batch:
    blend = batch.blend
    kept = None if blend is None else replace(blend, order=blend.order.clone(), share=blend.share.clone())
    return Batch(batch.images.clone(), batch.index.clone(), batch.y.clone(), batch.share.clone(), kept)
