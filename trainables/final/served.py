"""A trained network as one program: uint8 images in, probabilities out, preprocessing and readout inside."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batch import Outputs
from trainables.final.recipe import TrainError
from trainables.models import Network
from trainables.pipeline import Pipeline
from trainables.seeding import generator
from trainables.stage import stage_facts

PROGRAM, SERVED = "model.pt2", "mlflow-model"
"""Names of the exported program and of the MLflow model's folder."""


class NotExported(TrainError):
    """A network, or a readout, that `torch.export` cannot make a program of."""


class Served(nn.Module):
    """Images (B, c, H, W), uint8 of 0 to 255 or floats of the same scale, to probabilities (B, C) float32.

    Args:
        network: The trained network.
        mean: (c,) of the pixels, in [0, 1].
        std: (c,), above 0, in the same unit.
        views: Views (V, B, c, H, W) of the images, where the readout asks for several.
        readout: Outputs -> z (B, C), where the last stage has one.
    """

    def __init__(
        self,
        network: Network,
        mean: Tensor,
        std: Tensor,
        views: Callable[[Tensor], Tensor] | None = None,
        readout: Callable[[Outputs], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.detach().clone().view(-1, 1, 1))
        self.register_buffer("std", std.detach().clone().view(-1, 1, 1))
        self._views, self._readout = views, readout

    def forward(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, C), rows sum to 1."""
        seen = images if self._views is None else self._views(images)
        outputs = self.network((seen.float() / 255 - self.mean) / self.std)
        z: Tensor = outputs.logits if self._readout is None else self._readout(outputs)
        return z.float().softmax(dim=1)


def served(pipeline: Pipeline) -> Served:
    """What a finished pipeline's test measures, as a module on the CPU, whatever it was trained on.

    A readout that looks at the training images (nearest mean) looks at them there, too.
    """
    start = replace(pipeline.start, device=torch.device("cpu"), data=pipeline.data.to("cpu"))
    plan, data = pipeline.plan, start.data
    last = len(plan.stages) - 1
    network = pipeline.network().cpu().settle("fp32", torch.contiguous_format)
    made = next((trick.made() for trick in plan.stages[last].on("readout")), None)
    readout = None
    if made is not None:
        generators = partial(generator, start.seed, plan.chain_number(last))
        with torch.no_grad():
            readout = made.build(stage_facts(start, network, plan.stages[last].epochs, generators))
    module = Served(network, data.mean, data.std, getattr(made, "views", None), readout).eval()
    return module.requires_grad_(False)  # nor does the program keep a graph


def rehearse(network: Network, shape: Sequence[int]) -> None:
    """Exports an untrained network, so that one of the user's own that cannot be fails before it is trained.

    Args:
        network: On the CPU.
        shape: (c, H, W) of the images.

    Raises:
        NotExported: It cannot.
    """
    channels = shape[0]
    module = Served(network, torch.zeros(channels), torch.ones(channels)).eval().requires_grad_(False)
    images = torch.zeros(2, *shape, dtype=torch.uint8)
    # torch prints the half-made graph, of which the error is a sentence
    with _explained(), contextlib.redirect_stderr(io.StringIO()):
        torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # torch.export, and the user's code in it, may raise anything
        why = (str(error).strip().splitlines() or [""])[0]
        raise NotExported(f"torch.export makes no program of it: {type(error).__name__}: {why}") from error


def save(module: Served, out: Path, images: Tensor, classes: Sequence[str], metadata: Mapping[str, Any]) -> None:
    """Writes `model.pt2` (torch.export) and `mlflow-model/`, which holds the same program.

    Neither needs this project's code to be loaded. The number of images is free, their size is that of the data.

    Args:
        module: What to export.
        out: Folder; an earlier program in it is replaced.
        images: (2, c, H, W) uint8, an example.
        classes: C names.
        metadata: JSON-able, kept with the MLflow model.

    Raises:
        NotExported: It cannot be exported.
    """
    import numpy as np

    with warnings.catch_warnings():
        # MLflow's own agents, of which nothing is used here
        warnings.filterwarnings("ignore", message=".*type hint", category=UserWarning)
        import mlflow.pyfunc
        import mlflow.pytorch
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

    shape = tuple(images.shape[1:])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(classes)))]),
    )
    shutil.rmtree(out / SERVED, ignore_errors=True)
    with _explained():
        mlflow.pytorch.save_model(
            module,
            str(out / SERVED),
            signature=signature,
            input_example=images.cpu().numpy(),
            serialization_format="pt2",
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in ("mlflow", "torch", "numpy")],
            metadata={**metadata, "classes": list(classes)},
        )
    shutil.copyfile(out / SERVED / "data" / "model.pt2", out / PROGRAM)
