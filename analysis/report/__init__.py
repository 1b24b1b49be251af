"""The HTML report of a search, its findings and its figures."""
