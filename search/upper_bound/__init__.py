"""The survey's two measures of a method: its upper bound on balanced data, and its accuracy relative to that."""
