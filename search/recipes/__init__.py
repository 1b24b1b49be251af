"""Recipes that a search builds, begins with and takes over from an earlier search."""
