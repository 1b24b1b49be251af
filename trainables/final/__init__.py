"""Final training of an exported recipe: what `python -m trainables.train` is made of."""
