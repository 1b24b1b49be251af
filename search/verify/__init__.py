"""Whether what a search left can be believed, and whether somebody else finds the same."""
