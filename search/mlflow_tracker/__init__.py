"""Records to MLflow: search run › recipe run › trial run, written by the driver alone.

The journal of the search is the truth, and MLflow an index of it. For each run there is one state that it must have;
what the store has of the search is looked up by tags, and only what differs is written. So a writer that is killed
between any two of its calls is repaired by the next one that is given the same records (`--resume`, `search.sync`), and
writing twice changes nothing. What is no longer right goes to MLflow's deleted runs and is never erased.
"""

from search.mlflow_tracker.search_run import FINDINGS, INDEX, SearchRun, conflict_tags, conflicts_in
from search.mlflow_tracker.store import TrackingError, check, choose, default_uri, prepare, where_to_look
from search.mlflow_tracker.tracker import Tracker

__all__ = [
    "FINDINGS",
    "INDEX",
    "SearchRun",
    "Tracker",
    "TrackingError",
    "check",
    "choose",
    "conflict_tags",
    "conflicts_in",
    "default_uri",
    "prepare",
    "where_to_look",
]
