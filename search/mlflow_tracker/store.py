"""The MLflow store of a search: which one it is, whether it can be written, and how to look at it."""

from __future__ import annotations

import os
from pathlib import Path

from analysis.records import mlflow_store
from analysis.records.mlflow_store import NOWHERE, StoreError
from analysis.text import command


class TrackingError(ValueError):
    """A store that cannot be written, or a search that must not be written there."""


def default_uri() -> str:
    """The store in this directory that a bare `mlflow ui` opens.

    Raises:
        TrackingError: `mlflow ui` would open something else, or the store cannot be written.
    """
    for meta in sorted(Path("mlruns").glob("*/meta.yaml")):
        if meta.parent.name.isdigit():
            raise TrackingError(
                f"{meta} is left from an old MLflow store of files: `mlflow ui` would open that one and not this "
                "search; move ./mlruns away (or convert it with `mlflow migrate-filestore`), or choose another store "
                "with --tracking-uri"
            )
    uri = mlflow_store.default_uri()
    check(uri)
    return uri


def choose(uri: str | None = None) -> tuple[str, str]:
    """The store of a search: the one given, else that of the environment, else the one in this directory.

    Returns:
        Its address without a password, and where the address comes from, in words that can follow it.

    Raises:
        TrackingError: The store cannot be written.
    """
    origin = mlflow_store.source(uri)
    if uri or origin:
        chosen = mlflow_store.address(uri)
        check(chosen)
        return chosen, origin
    return default_uri(), origin


def check(uri: str) -> None:
    """Refuses at once, without importing MLflow, a store that cannot be written.

    Raises:
        TrackingError: The address is not one of a store, or the file or its folder is missing or read-only.
    """
    if uri == NOWHERE:
        return
    try:
        mlflow_store.refuse(uri)
    except StoreError as error:
        raise TrackingError(str(error)) from error
    file = mlflow_store.database(uri)
    if file is None:
        return
    problem = ""
    if not file.parent.is_dir():
        problem = f"there is no folder {file.parent}"
    elif file.is_dir():
        problem = f"{file} is a folder"
    elif file.exists() and not os.access(file, os.W_OK):
        problem = f"{file} is read-only"
    elif not os.access(file.parent, os.W_OK):
        problem = f"the folder {file.parent} is read-only"
    elif any(sign in str(file) for sign in "?#%"):
        problem = f"the path {file} holds one of ? # %, which a store's address cannot"
    if problem:
        raise TrackingError(
            f"the MLflow store cannot be written: {problem}; "
            "choose another with --tracking-uri, e.g. --tracking-uri sqlite:////tmp/mlflow.db"
        )


def prepare(uri: str) -> None:
    """Creates the store if it does not exist yet. Takes seconds; the second call does nothing.

    Raises:
        TrackingError: The store cannot be written or opened.
    """
    check(uri)
    if uri == NOWHERE:
        return
    try:
        mlflow_store.connect(uri, create=True)
    except StoreError as error:
        raise TrackingError(f"{error}; or choose another store with --tracking-uri") from error


def where_to_look(uri: str, search: str = "NAME") -> str:
    """The command that shows the store, for the last lines of a search.

    >>> where_to_look("sqlite:////data/mlflow.db")
    'mlflow ui --backend-store-uri sqlite:////data/mlflow.db -w 1'
    """
    if uri == NOWHERE:
        return (
            f"not in MLflow; written there by: {command('python', '-m', 'search.sync', search, '--tracking-uri')} URI"
        )
    if uri.startswith(("http://", "https://")):
        return uri
    if uri == mlflow_store.default_uri():
        return "mlflow ui"
    return command("mlflow", "ui", "--backend-store-uri", uri, "-w", "1")
