"""What was learned: conflicts, effects, figures and the report, from the records of a search."""
