"""The phases of a search."""
