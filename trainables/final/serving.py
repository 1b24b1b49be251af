"""A trained network as a program (uint8 images to probabilities) and as what MLflow serves (files to class names).

Of data that are features both take features: float32 (B, D), as the file of the data has them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from analysis.files import to_json, write
from trainables.batch import Outputs
from trainables.data import LongTailed
from trainables.data.images import decoding
from trainables.data.images.decoding import Preprocessing
from trainables.final import predictor
from trainables.final.errors import TrainError
from trainables.final.reliability.measurement import Calibrated
from trainables.models import Network
from trainables.models.layers import fold
from trainables.pipeline.pipeline import Pipeline
from trainables.training.network_setup import stage_facts
from trainables.training.seeding import generator

PROGRAM, MLFLOW_MODEL = "model.pt2", "mlflow-model"
"""Names of the exported program and of the MLflow model's folder."""


class NotExported(TrainError):
    """A network, or a readout, that `torch.export` cannot make a program of."""


class ServingModule(nn.Module):
    """Images (B, c, H, W) uint8 to probabilities (B, C) float32; the exported program refuses any other type.

    Without a backbone, features (B, D) float32.

    Args:
        network: The trained network.
        mean: (c,) of the pixels, in [0, 1]; of features (D,).
        std: (c,), above 0, in the same unit; of features (1,).
        views: Views (V, B, c, H, W) of the images, where the readout asks for several.
        readout: Outputs -> z (B, C), where the last stage has one.
        scale: What z is multiplied by, 1/T of a calibration.
        shift: (C,) that is added then, which leads to the prior of deployment; zeros where absent.
    """

    def __init__(
        self,
        network: Network,
        mean: Tensor,
        std: Tensor,
        views: Callable[[Tensor], Tensor] | None = None,
        readout: Callable[[Outputs], Tensor] | None = None,
        scale: float = 1.0,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        # a backbone sees pixels
        self._unit, shape = (255.0, (-1, 1, 1)) if len(network.backbone) else (1.0, (-1,))
        self.register_buffer("mean", mean.detach().clone().view(shape))
        self.register_buffer("std", std.detach().clone().view(shape))
        self._views, self._readout, self._scale = views, readout, scale
        self.shift: Tensor | None
        self.register_buffer("shift", None if shift is None else shift.detach().float().cpu())

    def forward(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, C), rows sum to 1."""
        seen = images if self._views is None else self._views(images)
        outputs = self.network((seen.float() / self._unit - self.mean) / self.std)
        z: Tensor = outputs.logits if self._readout is None else self._readout(outputs)
        z = z.float()
        return (z if self.shift is None else self._scale * z + self.shift).softmax(dim=1)


def serving_module(pipeline: Pipeline, calibrated: Calibrated | None = None) -> ServingModule:
    """The network and readout of a finished pipeline as a module on the CPU, whatever it was trained on.

    A readout that looks at the training images (nearest mean) looks at them there, too. With a calibration, the
    module's probabilities are the calibrated ones.
    """
    context = replace(pipeline.context, device=torch.device("cpu"), data=pipeline.data.to("cpu"))
    plan, data = pipeline.plan, context.data
    last = len(plan.stages) - 1
    network = pipeline.network().cpu().settle("fp32", torch.contiguous_format)
    fold(network)
    made = next((trick.made() for trick in plan.stages[last].on("readout")), None)
    readout = None
    if made is not None:
        generators = partial(generator, context.seed, plan.chain_number(last))
        with torch.no_grad():
            readout = made.build(stage_facts(context, network, plan.stages[last].epochs, generators))
    scale, shift = (1.0, None) if calibrated is None else (1 / calibrated.calibration.temperature, calibrated.shift)
    module = ServingModule(network, data.mean, data.std, getattr(made, "views", None), readout, scale, shift).eval()
    return module.requires_grad_(False)  # nor does the program keep a graph


def check_exportable(network: Network, shape: Sequence[int]) -> None:
    """Exports an untrained network, so that one of the user's own that cannot be fails before it is trained.

    Args:
        network: On the CPU.
        shape: (c, H, W) of the images.

    Raises:
        NotExported: It cannot.
    """
    channels = shape[0]
    module = ServingModule(network, torch.zeros(channels), torch.ones(channels)).eval().requires_grad_(False)
    # torch prints the half-made graph; its error says the same in a sentence
    with contextlib.redirect_stderr(io.StringIO()):
        export(module, shape)


def export(module: ServingModule, shape: Sequence[int]) -> Any:
    """The module as a program of `torch.export`, for any number of images.

    Args:
        module: On the CPU.
        shape: (c, H, W) of the images, or (D,) of features.

    Raises:
        NotExported: It cannot be exported.
    """
    # two: of one image, the number one would become part of the program
    images = torch.zeros(2, *shape, dtype=torch.float32 if len(shape) == 1 else torch.uint8)
    with _explain_errors():
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has the places of our sources on this machine
    return program


@contextlib.contextmanager
def _explain_errors(what: str = "torch.export makes no program of it") -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # torch.export, and the user's code in it, may raise anything
        why = (str(error).strip().splitlines() or [""])[0]
        raise NotExported(f"{what}: {type(error).__name__}: {why}") from error


def preprocessing_of(data: LongTailed) -> Preprocessing:
    """How encoded images became the data's pixels; of data that came as arrays, how one of that size is decoded."""
    known: Preprocessing | None = getattr(data, "preprocessing", None)
    return known or Preprocessing(int(data.train_images.shape[1]))


def save(
    module: ServingModule,
    out: Path,
    data: LongTailed,
    metadata: Mapping[str, Any],
    limits: Sequence[float | None] | None = None,
) -> None:
    """Writes `model.pt2` (torch.export) and `mlflow-model/`, which holds the same program and all preprocessing.

    Neither needs this project to be loaded: the code that decodes images lies in the MLflow model. Each is replaced
    whole or not at all.

    Args:
        module: What to export.
        out: Folder.
        data: What the network was trained on.
        metadata: JSON-serialisable, kept with the MLflow model.
        limits: (C,) lowest probability at which an answer of each class is accepted, `None` for a class whose answers
            never are; `None` for a model that does not abstain.

    Raises:
        NotExported: It cannot be exported.
        OSError: It cannot be written.
    """
    shape = tuple(map(int, data.train_images.shape[1:]))
    packed = io.BytesIO()
    program = export(module, shape)
    with _explain_errors():
        # in memory: torch's own writer ends the process where the disk is full
        torch.export.save(program, packed)
    preprocessing = None if data.kind == "features" else asdict(preprocessing_of(data))
    contract: dict[str, Any] = {"preprocessing": preprocessing, "shape": shape, "classes": list(data.class_names)}
    if limits is not None:
        contract["thresholds"] = list(limits)
    with tempfile.TemporaryDirectory(prefix=".mlflow-model-", dir=out) as beside:
        place = Path(beside)
        (place / "data").mkdir()
        (place / "data" / PROGRAM).write_bytes(packed.getvalue())
        (place / "data" / "contract.json").write_text(to_json(contract, indent=1), encoding="utf-8")
        package = place / PACKAGE
        package.mkdir()
        (package / "__init__.py").write_text(_LOADER, encoding="utf-8")
        for source in (decoding, predictor):
            shutil.copyfile(str(source.__file__), package / Path(str(source.__file__)).name)
        with _explain_errors("MLflow does not save it"):
            about = {**metadata, "classes": list(data.class_names), "input": input_of(data)}
            _save_for_mlflow(place, data, about, abstains=limits is not None)
        shutil.rmtree(out / MLFLOW_MODEL, ignore_errors=True)
        (place / MLFLOW_MODEL).replace(out / MLFLOW_MODEL)
    write(out / PROGRAM, packed.getvalue())


PACKAGE = "longtail_classifier"
"""Name of the package in the MLflow model."""

_LOADER = f'''"""How MLflow loads this model."""

from {PACKAGE}.decoding import Preprocessing
from {PACKAGE}.predictor import load


def _load_pyfunc(folder):
    return load(folder, Preprocessing)
'''

INPUT = (
    "each row of the column image is one image: an encoded image (PNG, JPEG, …) as bytes or as base64, the path of an "
    "image file on the machine that serves, or pixels (channels, height, width) as whole numbers from 0 to 255; "
    "floating-point numbers and other shapes are refused"
)
"""What the signature cannot say: MLflow's types know neither alternatives nor ranges, and its tensors of uint8 take
floating-point numbers and cut off their fractions without a word."""


INPUT_OF_FEATURES = (
    "each row of the column features is one image: the numbers that the backbone has computed of it, as they stand in "
    "the file that was trained on; they are standardised inside"
)


def input_of(data: LongTailed) -> str:
    """What a row of a request is."""
    return INPUT_OF_FEATURES if data.kind == "features" else INPUT


def _save_for_mlflow(place: Path, data: LongTailed, metadata: Mapping[str, Any], abstains: bool) -> None:
    """Makes `mlflow-model/` of the folders in a place."""
    with warnings.catch_warnings():
        # libraries warn of each other, and MLflow of its agents, of which nothing is used here
        warnings.simplefilter("ignore")
        # here, so that these warnings are caught, and because it takes seconds
        import mlflow.pyfunc

        kinds = mlflow.types.DataType

        # which tells that it checks the example
        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
        column = predictor.column_of(data.train_images.shape[1:])
        schema, spec = mlflow.types.Schema, mlflow.types.ColSpec
        answer = {
            "class": kinds.string, "probability": kinds.double, "label": kinds.long,
            "probabilities": mlflow.types.schema.Map(kinds.double), **({"accepted": kinds.boolean} if abstains else {}),
        }  # fmt: skip
        mlflow.pyfunc.save_model(
            str(place / MLFLOW_MODEL),
            loader_module=PACKAGE,
            data_path=str(place / "data"),
            code_paths=[str(place / PACKAGE)],
            signature=mlflow.models.ModelSignature(
                inputs=schema([spec(mlflow.types.schema.AnyType(), column)]),
                outputs=schema([spec(kind, name) for name, kind in answer.items()]),
            ),
            input_example=_example(data),
            # given, so that nothing is looked up
            pip_requirements=[
                f"{name}=={version(name).partition('+')[0]}"
                for name in ("mlflow", "torch", "numpy", "pandas", "pillow")
            ],
            metadata=dict(metadata),
        )


def _example(data: LongTailed) -> pd.DataFrame:
    """A test image as a request."""
    if data.kind == "features":
        return pd.DataFrame({predictor.FEATURES: [data.test_images[:1][0].cpu().tolist()]})
    pixels = data.test_images[:1][0].cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return pd.DataFrame({predictor.COLUMN: [base64.b64encode(file.getvalue()).decode()]})
