"""The folder of a search: what is in it, what its results stand on, and the names of places."""
