"""The store's address, its password, and how a database comes into being: real MLflow, real processes, real kills."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from analysis.records import mlflow_store
from analysis.records.mlflow_store import (
    StoreError,
    address,
    condition,
    connect,
    hide,
    key,
    make,
    name_of,
    pair_name,
    shown,
)
from search.list import main as list_searches
from search.mlflow_tracker import Tracker, where_to_look

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DO_NOT_TRACK"))}


def python(code: str, place: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=CLEAN | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ passwords


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://me:word@host:5000/base", "http://me:***@host:5000/base"),
        ("https://me:wo%40rd@host", "https://me:***@host"),
        ("postgresql://me:wo@rd@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:wo/rd@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:word@host:3306/db?ssl_ca=/x", "mysql+pymysql://me:***@host:3306/db?ssl_ca=/x"),
        ("postgresql://host/db?user=me&password=word", "postgresql://host/db?user=me&password=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dword", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://host:5000", "http://host:5000"),
        ("http://me@host", "http://me@host"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
    ],
)
def test_an_address_is_shown_without_its_password(uri, expected):
    assert shown(uri) == expected and shown(expected) == expected


def test_the_text_of_a_library_is_shown_without_it():
    assert address("http://me:s%2Fecret@host") == "http://me:***@host"
    said = hide("API request to http://me:s%2Fecret@host/api failed: no auth for 's/ecret' (me:s%2Fecret@host)")
    assert "ecret" not in said and said.count("***") == 3


def test_a_password_is_taken_again_from_the_environment(monkeypatch):
    monkeypatch.setattr(mlflow_store, "_real", {})
    hidden = "postgresql://me:***@nowhere.invalid/db"
    with pytest.raises(StoreError, match=r"the password of postgresql://me:\*\*\*@nowhere.invalid/db is kept nowhere"):
        connect(hidden)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:word@nowhere.invalid/db")
    with pytest.raises(StoreError, match=r"no database answers at postgresql://me:\*\*\*@nowhere.invalid/db") as caught:
        connect(hidden)
    assert "word" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "word")
    monkeypatch.setattr(mlflow_store, "_real", {})
    assert mlflow_store._with_password("http://me:***@host:1/x") == "http://host:1/x"


def test_the_store_of_the_environment_is_followed_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///team.db")
    assert address() == f"sqlite:///{tmp_path / 'team.db'}"
    assert address("sqlite:///own.db") == f"sqlite:///{tmp_path / 'own.db'}"
    make(tmp_path / "team.db")
    assert list_searches([]) == 0
    said = capsys.readouterr().out
    assert f"searches in sqlite:///{tmp_path / 'team.db'} (from the environment variable MLFLOW_TRACKING_URI)" in said
    # a bare `mlflow ui` does not follow it
    assert where_to_look(address()) == f"mlflow ui --backend-store-uri sqlite:///{tmp_path / 'team.db'} -w 1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert list_searches([]) == 2
    assert "'./mlruns' (from the environment variable MLFLOW_TRACKING_URI): MLflow no longer" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["mlruns", "file:mlruns", "file:///data/mlruns", "sqlite://", "sqlite:///"])
def test_an_address_that_mlflow_cannot_open(uri):
    with pytest.raises(StoreError, match=r"MLflow no longer opens folders or bare paths; give a database such as"):
        connect(uri)


# ------------------------------------------------------------------------------------------------- databases

MAKE = """
import sys
from pathlib import Path
from analysis.records.mlflow_store import make
make(Path("mlflow.db"))
print("made")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_kill_while_the_database_is_made_leaves_nothing_harmful(tmp_path, number):
    process = python(MAKE, tmp_path)
    beside: list[Path] = []
    while not beside or not beside[0].exists() or beside[0].stat().st_size < 100_000:
        assert process.poll() is None, process.communicate()
        beside = list(tmp_path.glob(f".mlflow.db.*.{process.pid}.????????"))
    process.send_signal(number)
    process.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    make(tmp_path / "mlflow.db")
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}
    assert condition(tmp_path / "mlflow.db", thorough=True) == ""


def test_two_that_start_together_make_one_database(tmp_path):
    both = [python(MAKE, tmp_path) for _ in range(2)]
    for process in both:
        said, error = process.communicate(timeout=120)
        assert process.returncode == 0 and said == "made\n", error
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock"}
    assert connect(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()


def test_a_database_that_another_process_is_making_stays(tmp_path):
    """Where a file system has no locks, two processes make the database at the same time."""
    elsewhere = tmp_path / ".mlflow.db.other-host.1.0123abcd"
    elsewhere.write_bytes(b"half")
    make(tmp_path / "mlflow.db", lambda path: path.write_bytes(b"whole"))
    assert elsewhere.read_bytes() == b"half" and (tmp_path / "mlflow.db").read_bytes() == b"whole"


def half_made(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")


def test_a_half_made_database_is_named_kept_and_replaced(tmp_path, caplog):
    file = tmp_path / "mlflow.db"
    half_made(file)
    content = file.read_bytes()
    os.utime(file, (1.7e9, 1.7e9))
    uri = f"sqlite:///{file}"
    with pytest.raises(StoreError, match=r"mlflow.db is half made, because its creation was interrupted; it is repl"):
        connect(uri)
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({}, {})
    assert tracker.close() == []
    (kept,) = tmp_path.glob("mlflow.db.half-made-*")
    assert kept.read_bytes() == content
    assert f"{file} was half made, because its creation was interrupted; it is kept as {kept}" in caplog.text


def test_what_another_program_is_still_making_is_waited_for(tmp_path):
    file = tmp_path / "mlflow.db"
    half_made(file)

    def go_on() -> None:
        time.sleep(1)
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("INSERT INTO experiments VALUES (0)")

    other = threading.Thread(target=go_on)
    other.start()
    make(file)
    other.join()
    assert not list(tmp_path.glob("*half-made*")) and condition(file) == ""


def test_another_programs_database_is_left_alone(tmp_path):
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"it is another program's database \(its tables: accounts\)"):
        connect(f"sqlite:///{file}", create=True)
    assert file.read_bytes() == before


def test_a_lock_that_is_held_for_ever_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_store, "PATIENCE", 0.2)
    with (
        FileLock(tmp_path / ".mlflow.db.lock"),
        pytest.raises(StoreError, match=r"another process has been creating the MLflow store .*mlflow.db for 0 s"),
    ):
        make(tmp_path / "mlflow.db")


def test_a_database_that_another_process_has_locked(empty_store, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_store, "READ_PATIENCE", 0.1)
    file = tmp_path / "mlflow.db"
    file.write_bytes(empty_store.read_bytes())
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"has been locked by another process for 0 s; end that process"):
            connect(f"sqlite:///{file}")


# ------------------------------------------------------------------------------------ what MLflow does by itself

TELEMETRY = """
import json, os
from trainables.final.tracking import NOWHERE, MlflowRun
MlflowRun(NOWHERE, "digits-lt", "x", {}, {})
import mlflow
from mlflow.telemetry.client import get_telemetry_client
print(json.dumps([os.environ["MLFLOW_DISABLE_TELEMETRY"], get_telemetry_client() is None]))
"""


@pytest.mark.parametrize(
    ("asked", "expected"), [({}, ["true", True]), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false")]
)
def test_telemetry_is_off_unless_it_is_asked_for(tmp_path, asked, expected):
    said, error = python(TELEMETRY, tmp_path, **asked).communicate(timeout=120)
    found = json.loads(said.splitlines()[-1] if said else error)
    assert (found if not asked else found[0]) == expected


@pytest.mark.parametrize("by_hand", [False, True])
def test_no_network_is_asked_of_by_mlflow_itself(tmp_path, by_hand):
    """A look-up by hand shows that the test would see one; whether MLflow asks where it may depends on the machine."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, socket\n"
        "def note(*where, **_):\n"
        "    open(os.environ['LOOKED_UP'], 'a').write(repr(where) + '\\n')\n"
        "    raise OSError('no network')\n"
        "socket.getaddrinfo = note\n"
    )
    looked_up = tmp_path / "looked up"
    code = TELEMETRY + "import contextlib, time, urllib.request\n"
    code += "mlflow.set_tracking_uri('sqlite:///x.db')\nmlflow.create_experiment('a')\n"
    if by_hand:
        code += "with contextlib.suppress(OSError): urllib.request.urlopen('http://example.org')\n"
    seen = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "LOOKED_UP": str(looked_up)}
    process = python(code + "time.sleep(1)\n", tmp_path, **seen)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert looked_up.exists() == by_hand, looked_up.exists() and looked_up.read_text()


# ------------------------------------------------------------------------------------------------------ keys

LETTERS = st.text(alphabet=st.sampled_from("ax.0/-_ (üF段"), max_size=12)


@given(LETTERS)
def test_every_name_has_a_key_of_its_own_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    assert name_of(key(name)) == name
    _validate_metric_name(key(name))


@given(*[st.text(alphabet="ab-", max_size=4)] * 4)
def test_no_two_pairs_share_a_name(a, b, c, d):
    assert ((a, b) == (c, d)) == (pair_name(a, b) == pair_name(c, d))


def test_long_names_stay_apart():
    one, other = key("ü(" * 300 + "a"), key("ü(" * 300 + "b")
    assert one != other and len(one) == len(other) == 250
