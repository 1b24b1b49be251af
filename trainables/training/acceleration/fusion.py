"""Members of one stage, or seeds of one recipe, trained side by side as one network of grouped convolutions.

Members that have the same layers and see batches of the same size differ in their numbers alone, so their
convolutions become one with a group for each member, their BatchNorms one over all channels, and their classifiers
one batched product. What a member draws, its tricks and its loss stay its own. Exact: in float64 the weights are
those of separate training to rounding; in float32 they drift apart as after any change in the order of a sum.

Source: the idea of Wang et al. 2021 (HFTA), MLSys, arXiv:2102.02344.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.batch import Batch, Blend, Outputs
from trainables.models.heads import CosineHead, LinearHead
from trainables.models.network import Network, for_every_view, views_of
from trainables.models.resnet_cifar import BasicBlock
from trainables.plan import StagePlan
from trainables.training.feed import Epoch
from trainables.training.own_modules import WHOLE
from trainables.training.stage_run import Diverged, StageRun

Run = Callable[[Tensor], Tensor]


class CannotFuse(Exception):
    """These members must be trained one by one."""


class FusedRun:
    """Several members of one stage, or the same stage of several seeds, advanced epoch by epoch.

    The members' parameters and statistics become slices of stacked ones, so each member's network is up to date
    after every step, for its own tricks and for its carry-over.

    Args:
        runs: The members, all at the same epoch.

    Raises:
        CannotFuse: A network with other layers, or members whose epochs differ in length. The runs are as before.
    """

    def __init__(self, runs: Sequence[StageRun]) -> None:
        self.runs = list(runs)
        networks = [run.network for run in self.runs]
        if any(self.runs[0].stage.on(seam) for seam in WHOLE):
            raise CannotFuse("a trick acts inside the network or on its step")
        for network in networks:
            check_stackable(network)
        lengths = [[run.images_in(epoch) for epoch in range(run.stage.epochs)] for run in self.runs]
        if any(length != lengths[0] for length in lengths):
            raise CannotFuse("the members' epochs have different lengths")
        self._members = len(self.runs)
        self._format = networks[0].memory_format
        self._precision = networks[0].precision
        self._parameters: list[nn.Parameter] = []
        self._slices: list[list[nn.Parameter]] = []  # the members' own, of each stacked one
        self._parts = {
            name: self._stack([network.backbone[name] for network in networks]) for name in networks[0].backbone
        }
        self._classify = self._head([network.head for network in networks])
        stage = self.runs[0].stage
        self._optimiser = torch.optim.SGD(
            self._parameters, lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay,
            nesterov=stage.nesterov, fused=True,
        )  # fmt: skip
        self._share_momentum()

    @property
    def stage(self) -> StagePlan:
        """The members' stage."""
        return self.runs[0].stage

    @property
    def train_loss(self) -> float:
        """Mean over the members."""
        return sum(run.train_loss for run in self.runs) / self._members

    @property
    def epoch(self) -> int:
        """Epochs that have been trained."""
        return self.runs[0].epoch

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained."""
        return self.runs[0].finished

    def train_epoch(self) -> None:
        """Trains one epoch of every member.

        Raises:
            Diverged: The loss, or a weight, of a member is not finite; the first such member is named.
        """
        for diverged in self.train_epoch_of_each():
            if diverged is not None:
                raise diverged

    def train_epoch_of_each(self) -> list[Diverged | None]:
        """Trains one epoch of every member; returns the error of each that diverged."""
        epochs = [run.begin_epoch() for run in self.runs]
        totals = torch.zeros(self._members, device=self.runs[0].context.device)
        for step, given in enumerate(zip(*(epoch.stream for epoch in epochs), strict=True)):
            batches = [batch for batch, _ in given]
            for group in self._optimiser.param_groups:
                group["lr"] = self.runs[0].rate(epochs[0], step)
            outputs = self.forward(batches)
            losses = torch.stack(
                [
                    run.gradient.loss(epoch, batch, out)
                    for run, epoch, batch, out in zip(self.runs, epochs, batches, outputs, strict=True)
                ]
            )
            self._optimiser.zero_grad(set_to_none=True)
            losses.sum().backward()
            self._optimiser.step()
            for run, batch, out in zip(self.runs, batches, outputs, strict=True):
                run.end_step(batch, out)
            totals += losses.detach()
        return [_end_epoch(*each) for each in zip(self.runs, epochs, totals, strict=True)]

    def forward(self, batches: Sequence[Batch]) -> list[Outputs]:
        """Outputs of each member's network for its own batch."""
        views = batches[0].images.shape[0]
        blends = [None if b.blend is None else for_every_view(b.blend, views) for b in batches]
        x = torch.cat(
            [_apply_blend(b.images.flatten(0, 1), blend, "input") for b, blend in zip(batches, blends, strict=True)], 1
        )
        x = x.contiguous(memory_format=self._format)
        with torch.autocast(x.device.type, torch.bfloat16) if self._precision == "bf16" else nullcontext():
            for name, part in self._parts.items():
                x = part(x)
                if any(blend is not None and blend.layer == name for blend in blends):
                    chunks = zip(x.chunk(self._members, 1), blends, strict=True)
                    x = torch.cat([_apply_blend(chunk, blend, name) for chunk, blend in chunks], 1)
        x = x.float() if self._precision == "bf16" else x
        pooled = (x if x.ndim == 2 else x.mean(dim=(2, 3))).chunk(self._members, 1)
        features = torch.stack(
            [_apply_blend(f, blend, "pool") for f, blend in zip(pooled, blends, strict=True)]
        )  # (K, B, D)
        logits = self._classify(features)
        maps = [None] * self._members if x.ndim == 2 else x.chunk(self._members, 1)
        outputs = []
        for member, blend in enumerate(blends):
            z = _apply_blend(logits[member], blend, "logits")
            outputs.append(views_of(Outputs(z, features[member], maps[member]), views))
        return outputs

    # --- stacking -----------------------------------------------------------------------------------------

    def _join(self, tensors: Sequence[nn.Parameter]) -> Tensor:
        """Concatenates a parameter of all members along the first dimension; theirs become slices of it."""
        joined = torch.cat([tensor.detach() for tensor in tensors])
        if joined.ndim == 4:
            joined = joined.contiguous(memory_format=self._format)
        for tensor, part in zip(tensors, joined.split(len(tensors[0])), strict=True):
            tensor.data = part
        parameter = nn.Parameter(joined)
        self._parameters.append(parameter)
        self._slices.append(list(tensors))
        return parameter

    def _stack(self, modules: Sequence[nn.Module]) -> Run:
        first = modules[0]
        if isinstance(first, nn.Sequential):
            steps = [self._stack(several) for several in zip(*modules, strict=True)]  # type: ignore[call-overload]
            return lambda x: _chain(steps, x)
        if isinstance(first, nn.Conv2d):
            weight, stride, groups = self._join([m.weight for m in modules]), first.stride, self._members  # type: ignore[misc]
            return lambda x: functional.conv2d(x, weight, None, stride, first.padding, first.dilation, groups)  # type: ignore[arg-type]
        if isinstance(first, nn.BatchNorm2d):
            return self._norm([m for m in modules if isinstance(m, nn.BatchNorm2d)])
        if isinstance(first, nn.ReLU):
            return functional.relu
        assert isinstance(first, BasicBlock)
        conv1, bn1, conv2, bn2 = (
            self._stack([getattr(m, name) for m in modules]) for name in ("conv1", "bn1", "conv2", "bn2")
        )

        def block(x: Tensor) -> Tensor:
            y = bn2(conv2(functional.relu(bn1(conv1(x)))))
            return functional.relu(y + self._shortcut(first, x))

        return block

    def _shortcut(self, block: BasicBlock, x: Tensor) -> Tensor:
        if block.stride > 1:
            x = x[:, :, :: block.stride, :: block.stride]
        if block.before or block.behind:
            apart = x.unflatten(1, (self._members, -1))  # each member's channels are padded by themselves
            padded = functional.pad(apart, (0, 0, 0, 0, block.before, block.behind)).flatten(1, 2)
            return padded.contiguous(memory_format=self._format)
        return x

    def _norm(self, modules: Sequence[nn.BatchNorm2d]) -> Run:
        first = modules[0]
        weight, bias = (self._join([getattr(m, name) for m in modules]) for name in ("weight", "bias"))
        mean, var = (torch.cat([getattr(m, name) for m in modules]) for name in ("running_mean", "running_var"))
        for name, joined in (("running_mean", mean), ("running_var", var)):
            for module, part in zip(modules, joined.split(len(mean) // len(modules)), strict=True):
                setattr(module, name, part)
        momentum = 0.1 if first.momentum is None else first.momentum

        def norm(x: Tensor) -> Tensor:
            for module in modules:
                assert module.num_batches_tracked is not None
                module.num_batches_tracked.add_(1)
            return functional.batch_norm(x, mean, var, weight, bias, True, momentum, first.eps)

        return norm

    def _head(self, heads: Sequence[nn.Module]) -> Run:
        first = heads[0]
        weight = self._join([head.weight for head in heads])  # type: ignore[misc]
        if isinstance(first, CosineHead):

            def cosine(features: Tensor) -> Tensor:
                rows = functional.normalize(self._apart(weight), dim=2)
                return first.scale * torch.bmm(functional.normalize(features, dim=2), rows.mT)

            return cosine
        bias = self._join([head.bias for head in heads])  # type: ignore[misc]
        return lambda features: torch.baddbmm(self._apart(bias)[:, None], features, self._apart(weight).mT)

    def _apart(self, tensor: Tensor) -> Tensor:
        """(K·n, …) -> (K, n, …)."""
        return tensor.view(self._members, -1, *tensor.shape[1:])

    def _share_momentum(self) -> None:
        """One momentum for each stacked parameter; the members' optimisers hold slices of it."""
        for parameter, slices in zip(self._parameters, self._slices, strict=True):
            buffer = torch.zeros_like(parameter, requires_grad=False)
            parts = buffer.split(len(slices[0]))
            for run, own, part in zip(self.runs, slices, parts, strict=True):
                known = run.optimiser.state[own].get("momentum_buffer")
                if known is not None:
                    part.copy_(known)
                run.optimiser.state[own]["momentum_buffer"] = part
            self._optimiser.state[parameter]["momentum_buffer"] = buffer


_KNOWN = (Network, nn.ModuleDict, nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, BasicBlock, LinearHead, CosineHead)


def check_stackable(network: nn.Module) -> None:
    """Refuses a network that cannot be stacked with others of its kind.

    Raises:
        CannotFuse: It is none of ours, or has a layer that cannot be stacked.
    """
    if type(network) is not Network:
        raise CannotFuse("the network is none of the package's own")
    if network.extra:
        raise CannotFuse("a trick keeps modules of its own")
    for module in network.modules():
        if not isinstance(module, _KNOWN) or (isinstance(module, nn.Conv2d) and not _plain(module)):
            raise CannotFuse(f"{type(module).__name__} cannot be stacked")


def _end_epoch(run: StageRun, epoch: Epoch, total: Tensor) -> Diverged | None:
    try:
        run.end_epoch(epoch, total)
    except Diverged as diverged:
        return diverged
    return None


def _plain(module: nn.Conv2d) -> bool:
    return module.bias is None and module.groups == 1 and module.padding_mode == "zeros"


def _chain(steps: Sequence[Run], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _apply_blend(x: Tensor, blend: Blend | None, layer: str) -> Tensor:
    return blend(x) if blend is not None and blend.layer == layer else x
