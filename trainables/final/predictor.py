"""Predictor that MLflow serves: encoded images, files or pixels in, class names and probabilities out.

This file is copied into the MLflow model, with `decoding.py` beside it: it imports nothing of this project.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import pandas as pd
import torch

COLUMN, FEATURES = "image", "features"
"""The one input, a row for each image: the image, or what a backbone has computed of it."""


def column_of(shape: Sequence[int]) -> str:
    """The name of the input of a program that takes images (c, H, W) or features (D,)."""
    return FEATURES if len(shape) == 1 else COLUMN


AT_ONCE = 64
"""Images that are decoded and classified together."""

LONGEST_PATH = 4096
"""Longer text is not taken for a path."""


class Preprocessing(Protocol):
    """Interface of `decoding.Preprocessing`."""

    def decode(self, source: Any) -> Any:
        """(c, H, W) uint8 pixels of one encoded image."""
        ...


class Predictor:
    """Classifies the images of a request; one row of `image` is one image.

    Args:
        program: Images (B, c, H, W) uint8, or features (B, D) float32 -> probabilities (B, C).
        preprocessing: Decodes encoded images; `None` where the program takes features.
        shape: (c, H, W), or (D,), that the program takes.
        classes: C names.
        limits: (C,) lowest probability at which an answer of each class is accepted, `None` for a class whose answers
            never are; `None` for a model that does not abstain.
    """

    def __init__(
        self,
        program: Callable[[torch.Tensor], torch.Tensor],
        preprocessing: Preprocessing | None,
        shape: Sequence[int],
        classes: Sequence[str],
        limits: Sequence[float | None] | None = None,
    ) -> None:
        self._program, self._preprocessing = program, preprocessing
        self._shape, self._classes = tuple(shape), list(classes)
        self._column, self._limits = column_of(shape), limits

    def predict(self, data: Any, params: Any = None) -> pd.DataFrame:
        """Classifies each image.

        Args:
            data: A table with the column `image`, or a sequence of images: encoded images as bytes or base64, paths of
                image files, or pixels (c, H, W) as whole numbers from 0 to 255. Where the program takes features, a
                table with the column `features`, or a sequence of D numbers for each image.
            params: Parameters of MLflow; there are none.

        Returns:
            A row for each image: "class" (the most probable one), "probability" (its own), "label" (its number) and
            "probabilities" (of every class, by name); of a model that abstains also "accepted", whether the probability
            reaches the threshold of the class.

        Raises:
            MlflowException: An image that is none of these; the sentence says which and why.
        """
        rows = list(_rows(data[self._column] if isinstance(data, (pd.DataFrame, dict)) else data))
        found = [np.empty((0, len(self._classes)), dtype=np.float32)]
        for first in range(0, len(rows), AT_ONCE):
            part = rows[first : first + AT_ONCE]
            pixels = np.stack([self._pixels(row, first + number) for number, row in enumerate(part)])
            with torch.no_grad():
                found.append(self._program(torch.from_numpy(pixels)).numpy())
        return self._answers(np.concatenate(found))

    def _answers(self, probabilities: Any) -> pd.DataFrame:
        labels = probabilities.argmax(axis=1).tolist()
        sure = [float(row[label]) for row, label in zip(probabilities, labels, strict=True)]
        answers = {
            "class": [self._classes[label] for label in labels],
            "probability": sure,
            "label": labels,
            "probabilities": [dict(zip(self._classes, row, strict=True)) for row in probabilities.tolist()],
        }
        if self._limits is not None:
            limits = (self._limits[label] for label in labels)
            answers["accepted"] = [
                limit is not None and found >= limit for limit, found in zip(limits, sure, strict=True)
            ]
        return pd.DataFrame(answers)

    def _pixels(self, row: Any, number: int) -> Any:
        """(c, H, W) uint8 of one row, or (D,) float32."""
        if self._preprocessing is None:
            return self._features(row, number)
        if isinstance(row, (bytes, bytearray, memoryview)):
            return self._decode(bytes(row), number)
        if isinstance(row, str):
            return self._decode(row if _is_file(row) else _encode(row, number), number)
        if isinstance(row, os.PathLike):
            return self._decode(row, number)
        if isinstance(row, (list, tuple, np.ndarray)):
            return self._check_pixels(row, number)
        return _refuse(number, f"there is no image, got {row!r:.60}")

    def _features(self, row: Any, number: int) -> Any:
        try:
            given = np.asarray(row, dtype=np.float32)
        except (ValueError, TypeError) as error:
            _refuse(number, f"features must be numbers ({error})")
        if given.shape != self._shape or not np.isfinite(given).all():
            _refuse(number, f"features must be {self._shape[0]} finite numbers, got {given.shape}")
        return given

    def _decode(self, source: Any, number: int) -> Any:
        assert self._preprocessing is not None
        try:
            pixels = self._preprocessing.decode(source)
        except (ValueError, OSError) as error:
            _refuse(number, f"the file {error}" if isinstance(error, ValueError) else str(error))
        if pixels.shape != self._shape:
            _refuse(
                number,
                f"has {_size(pixels.shape)} pixels, and this model takes images of {_size(self._shape)}, as those that "
                "it was trained on were; it does not resize",
            )
        return pixels

    def _check_pixels(self, row: Any, number: int) -> Any:
        """Pixels that were given as numbers: whole ones, so that an image in [0, 1] is not taken for a black one."""
        try:
            given = np.asarray(row if isinstance(row, np.ndarray) else list(row))
        except (ValueError, OverflowError) as error:
            _refuse(number, f"the numbers are not an array ({error})")
        if given.dtype.kind == "f":
            _refuse(
                number,
                "pixels must be whole numbers from 0 to 255 (uint8), got floating-point numbers from "
                f"{np.min(given, initial=np.inf):g} to {np.max(given, initial=-np.inf):g}; of an image in [0, 1], send "
                "(255 * image).round().astype('uint8')",
            )
        if given.dtype.kind not in "iu":
            _refuse(number, f"pixels must be whole numbers from 0 to 255 (uint8), got {given.dtype}")
        if given.shape != self._shape:
            _refuse(number, f"pixels must be of shape {self._shape} (channels, height, width), got {given.shape}")
        if given.min() < 0 or given.max() > 255:
            _refuse(number, f"pixels must be whole numbers from 0 to 255, got {given.min()} to {given.max()}")
        return given.astype(np.uint8)


def _rows(column: Iterable[Any]) -> Iterator[Any]:
    """A row for each image: MLflow makes one row of a list of texts."""
    for row in column:
        if isinstance(row, (list, tuple)) and all(isinstance(item, (str, bytes)) for item in row):
            yield from row
        else:
            yield row


def _is_file(text: str) -> bool:
    try:
        return len(text) <= LONGEST_PATH and Path(text).is_file()
    except (OSError, ValueError):
        return False


def _encode(text: str, number: int) -> bytes:
    """The bytes of base64, with or without the head of a data URI."""
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        shown = repr(text if len(text) <= 60 else f"{text[:57]}…")
        _refuse(number, f"the text {shown} is neither a file on this machine nor an image as base64")
    return content


def _size(shape: Iterable[int]) -> str:
    _, height, width = shape
    return f"{width}×{height}"


def _refuse(number: int, why: str) -> NoReturn:
    from mlflow.exceptions import MlflowException  # the predictor works without MLflow until it refuses a request

    raise MlflowException.invalid_parameter_value(f"image {number} (counted from 0): {why}")


def load(folder: str, preprocessing: Callable[..., Preprocessing]) -> Predictor:
    """The predictor of a saved model.

    Args:
        folder: Folder with `model.pt2` and `contract.json`.
        preprocessing: `decoding.Preprocessing`.
    """
    contract = json.loads(Path(folder, "contract.json").read_text(encoding="utf-8"))
    program = torch.export.load(Path(folder, "model.pt2")).module()
    rules = None if contract["preprocessing"] is None else preprocessing(**contract["preprocessing"])
    return Predictor(program, rules, contract["shape"], contract["classes"], contract.get("thresholds"))
