"""How long a search still takes."""
