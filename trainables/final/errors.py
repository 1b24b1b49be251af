"""What goes wrong in final training, in a sentence."""


class TrainError(ValueError):
    """A recipe that cannot be trained as asked."""
