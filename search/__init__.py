"""Many trials: design arm, adaptive arm, race; `search.run(space, data=…)` from Python."""

from search.run import SearchResult, run

__all__ = ["SearchResult", "run"]
