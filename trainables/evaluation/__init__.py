"""Metrics of the record, and their weighting in deployment."""
