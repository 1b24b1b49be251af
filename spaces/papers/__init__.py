"""Spaces after the tables of the source papers."""
