"""What a search begins with: recipes that were exported before, and the trials of an earlier search."""
