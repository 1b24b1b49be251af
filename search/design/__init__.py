"""The designed experiment: labels, pairs, fractional factorials, and what it can detect."""
