"""The MLflow store: its address, how it is opened and created, and what is wrong with it, in one sentence.

No password leaves this module: everything else handles the store's address with *** in place of the password, which is
put back here when a client is made. No database is created in place: it is written to a temporary file under a lock and
renamed when it is complete, so that a kill at any moment leaves either a store or none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from analysis import files
from analysis.records.relocation import relocate

_logger = logging.getLogger(__name__)

NOWHERE = "none"
"""A tracking URI that records nothing."""

VARIABLE = "MLFLOW_TRACKING_URI"
"""The environment variable that every MLflow tool follows."""

HIDDEN = "***"
"""Stands in place of a password."""

PATIENCE = 60.0
"""Seconds to wait for a store that another process creates or locks."""

READ_PATIENCE = 10.0
"""The same for a command that only reads."""

MEND = "python -m search.sync --all"
"""The command that rebuilds a store from the journals of its searches."""

_SECRET = re.compile(
    r"([?&;](?:[^=&;#]*(?:passw|passphrase|pwd|secret|token|api_?key)[^=&;#]*|odbc_connect|pass)=)([^&;#]+)", re.I
)
"""A password among the options of an address, e.g. postgresql://host/db?password=…"""

_QUIET = ("mlflow.store.db.utils", "mlflow.tracking", "alembic", "urllib3.connectionpool", "mlflow.utils.rest_utils")
"""Loggers that print tracebacks, migrations or addresses where this module says one sentence."""

_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}

_real: dict[str, str] = {}
"""Addresses without their password, and the same with it, that this process was given."""

_opened: dict[Path, tuple[int, int]] = {}
"""Device and inode of each database when this process opened it last."""


class StoreError(ValueError):
    """A store, or a search in it, that cannot be read or written."""


# --------------------------------------------------------------------------------------------- the address


def default_uri() -> str:
    """The store that a bare `mlflow ui` opens in this directory."""
    return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def address(given: str | None = None) -> str:
    """The address of the store, absolute and without its password, which stays known to `connect`.

    Args:
        given: Value of an option (default: that of the environment, else `default_uri()`).
    """
    uri = given or os.environ.get(VARIABLE) or default_uri()
    hidden = shown(uri)
    if hidden != uri:
        _real[hidden] = uri
    file = database(hidden)
    return hidden if file is None or file == Path.cwd() else f"sqlite:///{file}"


def source(given: str | None = None) -> str:
    """Where `address` takes the address from, in words that can follow it; empty if that needs no word.

    >>> source("sqlite:////data/mlflow.db")
    ''
    """
    return "" if given or not os.environ.get(VARIABLE) else f" (from the environment variable {VARIABLE})"


def database(uri: str) -> Path | None:
    """The file behind a `sqlite:///` address, None for any other kind of store.

    >>> str(database("sqlite:////data/mlflow.db"))
    '/data/mlflow.db'
    >>> database("http://tracking.example:5000") is None
    True
    """
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def portable(uri: str) -> str:
    """The address as it is noted in files that may be moved or given away: without this machine's folders.

    >>> portable("sqlite:////data/mlflow.db")
    'sqlite:///mlflow.db'
    """
    file = database(uri)
    return shown(uri) if file is None else f"sqlite:///{file.name}"


def shown(uri: str) -> str:
    """An address without its password.

    >>> shown("http://me:word@tracking.example:5000")
    'http://me:***@tracking.example:5000'
    >>> shown("postgresql://db.example/runs?user=me&password=word")
    'postgresql://db.example/runs?user=me&password=***'
    """
    before, user, password, after = _parts(uri)
    plain = uri if password is None else f"{before}{user}:{HIDDEN}@{after}"
    return _SECRET.sub(rf"\g<1>{HIDDEN}", plain)


def _parts(uri: str) -> tuple[str, str, str | None, str]:
    """Scheme with its slashes, user, password (None without one), and everything behind the @."""
    scheme, slashes, rest = uri.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and "@" in rest and re.search(r":\D", authority):
        authority = rest.rpartition("@")[0] + "@"  # a password with an unquoted slash
    names, at, _ = authority.rpartition("@")
    user, colon, password = names.partition(":")
    if not (slashes and at and colon and password):
        return "", "", None, uri
    return scheme + slashes, user, password, rest[len(names) + 1 :]


def hide(text: str) -> str:
    """Text of a library, without the passwords that this process was given."""
    for hidden, uri in _real.items():
        text = text.replace(uri, hidden)
        user, password = _parts(uri)[1:3]
        secrets = [found[1] for found in _SECRET.findall(uri)]
        if password is not None:
            text = text.replace(f"{user}:{password}@", f"{user}:{HIDDEN}@")
            secrets.append(password)
        for word in {form for secret in secrets for form in (secret, unquote(secret), quote(unquote(secret)))}:
            if len(word) > 3:  # a shorter one is part of too many words
                text = text.replace(word, HIDDEN)
    return text


def _with_password(uri: str) -> str:
    if HIDDEN not in uri:
        return uri
    variable = os.environ.get(VARIABLE, "")
    if uri not in _real and variable and shown(variable) == uri:
        _real[uri] = variable
    if uri in _real:
        return _real[uri]
    before, _, password, after = _parts(uri)
    if password == HIDDEN and before.startswith("http") and os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        return before + after  # MLflow takes both from the environment
    raise StoreError(
        f"the password of {uri} is kept nowhere: give the whole address again, with --tracking-uri or in the "
        f"environment variable {VARIABLE}"
    )


def refuse(uri: str) -> None:
    """Refuses an address that MLflow cannot open, without importing MLflow.

    Raises:
        StoreError: It is a folder, a bare path or a database without a file, or its password is not known.
    """
    bare = "://" not in uri or uri.startswith("file:") or (uri.startswith("sqlite:") and not uri[10:])
    if bare:
        folder = Path(re.sub(r"^(file|sqlite):/*", "", uri) or ".").absolute()
        raise StoreError(
            f"tracking URI {uri!r}{source() if uri == os.environ.get(VARIABLE) else ''}: MLflow no longer opens "
            f"folders or bare paths; give a database such as --tracking-uri sqlite:///{folder / 'mlflow.db'} or a "
            "server's address"
        )
    _with_password(uri)


# ------------------------------------------------------------------------------------------- the connection


def quiet() -> None:
    """Turns off what MLflow would send, print and wait for by itself, unless the environment asks for it."""
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),  # reports to MLflow's makers
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),  # two lines a run, into the live display
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),  # seven take minutes a call; the writers here retry themselves
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),
    ):
        os.environ.setdefault(name, value)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def api() -> ModuleType:
    """MLflow, told to be quiet before it is imported."""
    quiet()
    from analysis.records import mlflow_api  # takes seconds, for which `--help` and the preview do not wait

    return mlflow_api


class Client:
    """MLflow's client, whose errors are one sentence without a password.

    Args:
        uri: Address of the store, as `address` gives it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.answered = time.monotonic()
        """When the store answered last, as `time.monotonic` counts."""
        self.answers = 0
        self._closed = False
        real = _with_password(uri)
        try:
            self._client = api().MlflowClient(tracking_uri=real)
            _reopen(uri)
        except Exception as error:
            raise StoreError(sentence(uri, error)) from (error if real == uri else None)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self._closed:
                raise StoreError(f"the MLflow store at {self.uri} is no longer waited for")
            try:
                answer = method(*arguments, **options)
            except Exception as error:
                raise StoreError(sentence(self.uri, error)) from (error if HIDDEN not in self.uri else None)
            self.answered, self.answers = time.monotonic(), self.answers + 1
            return answer

        return call

    def close(self) -> None:
        """Ends every use of this client, also by another thread."""
        self._closed = True


def _reopen(uri: str) -> None:
    """Forgets MLflow's open connections to a database that has been replaced since: they write into the old file."""
    file = database(uri)
    if file is None or not file.exists():
        return
    now = file.stat().st_dev, file.stat().st_ino
    if _opened.setdefault(file, now) != now:
        api()._get_store(uri).engine.dispose()
        _opened[file] = now


def connect(uri: str, *, create: bool = False) -> Client:
    """A client of the store at `uri`.

    Args:
        uri: Address of a tracking store: sqlite:///FILE, another database, or a server's http address.
        create: Whether to create a database that does not exist yet, which takes seconds; readers never should.

    Raises:
        StoreError: There is no store at `uri`, or it is not one that MLflow can open.
    """
    uri = address(uri)
    refuse(uri)
    file = database(uri)
    if file is not None:
        _ready(file, create)
    elif uri.startswith(("http://", "https://")):
        _answers(uri)
    else:
        _listens(uri)
    client = Client(uri)
    client.search_experiments(max_results=1)
    return client


def _ready(file: Path, create: bool) -> None:
    """Waits for a locked database, creates a missing one, and refuses an incomplete one."""
    patience = PATIENCE if create else READ_PATIENCE
    end = time.monotonic() + patience
    state = condition(file)
    while state == "locked" and time.monotonic() < end:
        time.sleep(0.5)
        state = condition(file)
    if state == "":
        relocate(file)
        return
    if create and state in ("missing", "half-made"):
        make(file)
        return
    raise StoreError(
        {
            "missing": f"there is no MLflow store at {file}; run a search in this directory first, say where the store "
            f"is with --tracking-uri, or rebuild it from the searches in results/ with: {MEND}",
            "half-made": f"the MLflow store {file} is half made, because its creation was interrupted; it is replaced "
            f"when the next search starts, and by: {MEND}",
            "locked": f"the MLflow store {file} has been locked by another process for {patience:.0f} s; end that "
            "process, then start this command again",
        }.get(state, f"the MLflow store {file} cannot be opened: {state}; keep it and rebuild it with: {MEND}")
    )


def _answers(uri: str) -> None:
    """Ask a server once: MLflow's own client would try for minutes."""
    before, _, password, after = _parts(uri)
    place = uri if password is None else before + after
    try:
        with urllib.request.urlopen(place.rstrip("/") + "/health", timeout=10):
            return
    except urllib.error.HTTPError:
        return  # It is there; what it refuses, it says better itself.
    except (OSError, ValueError) as error:
        raise StoreError(
            f"no MLflow server answers at {uri} ({getattr(error, 'reason', error)}); start it or change --tracking-uri"
        ) from error


def _listens(uri: str) -> None:
    """Ask a database server once: MLflow would try to connect for minutes."""
    parts = urlsplit(_with_password(uri))
    try:
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    except ValueError as error:
        raise StoreError(f"tracking URI {uri}: {error}") from None
    if parts.hostname is None or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=10).close()
    except OSError as error:
        raise StoreError(
            f"no database answers at {uri} ({error.strerror or error}); start it or change --tracking-uri"
        ) from error


def sentence(uri: str, error: BaseException) -> str:
    """What is wrong with a store, from the error of a library: one line, with what to do."""
    if isinstance(error, StoreError):
        return str(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    why = hide(re.sub(r"^(\([\w.]+\) )+", "", lines[0]))
    if re.search(r"HTTPS?ConnectionPool|Connection (refused|aborted|reset)|timed out", why):
        return f"no MLflow server answers at {uri}"
    if re.search(r"malformed|not a database|no such table|no such column|readonly database|disk I/O", why):
        why = f"{why} (deleted, replaced or damaged?); rebuild it with: {MEND}"
    elif "locked" in why:
        why += " by another process"
    return f"the MLflow store at {uri}: {why}"


# --------------------------------------------------------------------------------------------- the database


def condition(file: Path, thorough: bool = False) -> str:
    """What state a database file is in.

    Args:
        file: The file.
        thorough: Whether every page is read, which takes seconds if there are many runs.

    Returns:
        "" for a store; "missing"; "half-made" (creation was interrupted: it holds no experiment, and every store holds
        one); "locked" by another process; or what is wrong with it, in words.
    """
    try:
        if not file.exists():
            return "missing"
        if file.stat().st_size == 0:
            return "half-made"
        # read and write: what a killed writer has left is rolled back first
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=2)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not names:
                return "half-made"
            if "experiments" not in names:
                return f"it is another program's database (its tables: {', '.join(sorted(names)[:5])})"
            if connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is None:
                return "half-made"
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if thorough else "ok"
            return "" if found == "ok" else f"it is damaged ({str(found).splitlines()[0]})"
    except sqlite3.OperationalError as error:
        return "locked" if "locked" in str(error) or "busy" in str(error) else f"it is damaged ({error})"
    except sqlite3.DatabaseError as error:
        return f"it is damaged ({error})"
    except OSError as error:
        return str(error.strerror)


def set_aside(file: Path, why: str) -> Path:
    """Keeps a database that is no store under another name, with the files that belong to it.

    Returns:
        The new name.
    """
    kept = file.with_name(f"{file.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}")
    number = 1
    while kept.exists():
        number += 1
        kept = file.with_name(f"{file.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}-{number}")
    for end in ("-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            file.with_name(file.name + end).replace(kept.with_name(kept.name + end))
    file.replace(kept)
    return kept


def make(file: Path, build: Callable[[Path], None] | None = None) -> None:
    """Creates a store unless it exists: in a temporary file, under a lock, renamed when it is complete.

    A half-made one, which an interrupted `mlflow ui` leaves, is kept under another name, and a warning says so.

    Args:
        file: The database; its folder must exist.
        build: Creates a complete store at a path (default: MLflow does).

    Raises:
        StoreError: Another process has been creating it for a minute, or it cannot be created.
    """
    if not file.parent.is_dir():
        raise StoreError(f"the MLflow store {file} cannot be written: there is no folder {file.parent}")
    try:
        with _alone(file):
            files.sweep(file.parent)
            _wait_for_others(file)
            if condition(file) == "half-made":
                kept = set_aside(file, "half-made")
                _logger.warning("%s was half made, because its creation was interrupted; it is kept as %s", file, kept)
            if file.exists():
                return
            beside = files.beside(file)
            try:
                (build or _build)(beside)
                _place(beside, file)
            finally:
                for left in file.parent.glob(f"{beside.name}*"):
                    left.unlink(missing_ok=True)
    except Timeout as error:
        raise StoreError(
            f"another process has been creating the MLflow store {file} for {PATIENCE:.0f} s; end it, or choose "
            "another store with --tracking-uri"
        ) from error
    except OSError as error:
        raise StoreError(f"the MLflow store {file} cannot be written: {error.strerror or error}") from error


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=PATIENCE)
    with suppress(NotImplementedError):  # a file system without locks: moving into place is enough, only done twice
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _wait_for_others(file: Path) -> None:
    """Waits while another program, e.g. `mlflow ui`, creates the database in place, as long as the file changes."""
    end = time.monotonic() + PATIENCE
    while condition(file) in ("half-made", "locked") and time.monotonic() < end:
        with suppress(FileNotFoundError):
            if time.time() - max(each.stat().st_mtime for each in (file, *file.parent.glob(f"{file.name}-*"))) > 5:
                return
        time.sleep(0.5)


def _build(beside: Path) -> None:
    try:
        store = api().SqlAlchemyStore(f"sqlite:///{beside}", str(beside.parent / "mlruns"))
        store.engine.dispose()
    except OSError:
        raise
    except Exception as error:
        raise StoreError(sentence(f"sqlite:///{beside}", error)) from error


def _place(beside: Path, file: Path) -> None:
    """Moves a whole database into place, unless another program has put one there meanwhile."""
    try:
        os.link(beside, file)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not file.exists():
            beside.rename(file)


# ------------------------------------------------------------------------------------------------- the keys

KEY_LENGTH = 250
"""Characters of a key that MLflow takes."""


def key(name: str) -> str:
    """The key of a parameter, metric or tag: no two names have the same, and `name_of` is the inverse.

    MLflow takes letters and digits of every script, `_ . / -` and space, and no empty or dotted path. Everything else
    is written as its code: `.x28.` for an opening parenthesis. A name that is too long ends in a digest of itself.

    >>> key("deferred/class_balanced"), key("größe/late(8)"), key("a//.")
    ('deferred/class_balanced', 'größe/late.x28.8.x29.', 'a/.x./.x2e.')
    """
    text = "/".join(_segment(segment) for segment in name.split("/"))
    if len(text) <= KEY_LENGTH:
        return text
    return f"{text[: KEY_LENGTH - 17]}.{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def _segment(text: str) -> str:
    if not text:
        return ".x."
    # so is a dot that begins a segment, or that would be read as the beginning of a code
    return re.sub(r"[^\w.\- ]|^\.|\.(?=x)", lambda found: f".x{ord(found[0]):x}.", text)


def name_of(key: str) -> str:
    """The inverse of `key`, for names that are not too long.

    >>> name_of("größe/late.x28.8.x29.")
    'größe/late(8)'
    """
    return re.sub(r"\.x([0-9a-f]*)\.", lambda found: chr(int(found[1], 16)) if found[1] else "", key)


def pair_name(a: str, b: str) -> str:
    """The name of a tag or metric of a pair of labels, from which `key` makes the key.

    >>> pair_name("train/mixup", "train/class_balanced")
    'conflict/train/mixup--train/class_balanced'
    >>> pair_name("a--b", "c") == pair_name("a", "b--c")
    False
    """
    return f"conflict/{_undashed(a)}--{_undashed(b)}"


def _undashed(label: str) -> str:
    """A label in which no two dashes follow each other, nor can with what is put around it."""
    return re.sub(r"(?<=-)-|^-|-$", "\N{NON-BREAKING HYPHEN}", label)
