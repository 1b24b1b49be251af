"""What the commands do; their options are declared in the modules that `python -m` runs, and in `search.settings`."""
