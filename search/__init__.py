"""Many trials: which plans run, when they stop, and what is kept of them."""
