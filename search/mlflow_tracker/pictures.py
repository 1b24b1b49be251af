"""Pictures that MLflow shows among the charts, under the names that its own `log_image` gives them."""

from __future__ import annotations

import io
import uuid

from PIL import Image

LARGEST = 1024
"""Pixels of the longer side of the smaller copy that the chart shows."""

LOGGED = "mlflow.loggedImages"
"""Tag of runs that have pictures."""


def chart_pictures(name: str, png: bytes, milliseconds: int) -> dict[str, bytes]:
    """The two files of a picture: artifact to content.

    The same name and time give the same files, so that a picture that is drawn again replaces the former one.

    Args:
        name: Key of the chart, without slashes.
        png: The picture.
        milliseconds: Unix time that MLflow shows beside it.
    """
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((LARGEST, LARGEST))
    small = io.BytesIO()
    image.save(small, "WEBP", quality=90)
    key = f"images/{name}+step+0+timestamp+{milliseconds}+{uuid.uuid5(uuid.NAMESPACE_OID, name)}"
    return {f"{key}.png": png, f"{key}+compressed.webp": small.getvalue()}
