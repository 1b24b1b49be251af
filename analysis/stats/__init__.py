"""Intervals, corrections for many tests and moderated variances: numbers in, numbers out; no torch, nothing of ours."""
