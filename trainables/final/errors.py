"""Errors of final training."""


class TrainError(ValueError):
    """A recipe that cannot be trained as asked."""
