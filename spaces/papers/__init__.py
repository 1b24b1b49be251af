"""Spaces and tables of the source papers: `SPACE` for a search, `TABLES` for `longtail-tune papers`."""
