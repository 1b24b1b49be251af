"""What can be wrong with a network's name."""

from __future__ import annotations


class ModelError(ValueError):
    """A network that does not exist, or cannot be made as asked."""
