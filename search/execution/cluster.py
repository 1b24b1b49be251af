"""Starts Ray on this machine or connects to a cluster, watches its processes, and makes sure that they end.

A Ray that is started here listens on the loopback interface only, requires a token that only this process and its
children know, and keeps its files in a temporary folder. Ray Tune's loop runs in a thread, so that the main thread can
always answer Ctrl-C and can end a search whose Ray has lost a process, for which Tune would wait forever.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray._private import auto_init_hook, ray_constants, worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from analysis.text import printable
from search.execution.cpus import allowed_cpus
from search.settings import SettingsError

log = logging.getLogger(__name__)

LASTING_ENVIRONMENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "3600"}
"""By default Ray silently ends this process a minute after its head has died; the results must be shown first."""

OWN_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system, processes listen on loopback only
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    **LASTING_ENVIRONMENT,
}
"""Environment of a Ray that is started here and of its processes, besides the token."""

SOCKET_BYTES = 103
"""Longest socket path that every system accepts; on Linux it is 107."""

SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
"""Length of what Ray appends to its folder to name a socket."""

FOLDER, LOCK = "lt-ray-", "lock"
"""Prefix of the name of Ray's folder, and the file in it that is locked while its process lives."""

ROOM_BYTES = 32 * 10**6
"""Free space that Ray's logs and sockets need."""

POLL_SECONDS = 0.5
"""Interval at which Ray's processes are checked."""

UNREACHABLE_SECONDS = 20.0
"""Time after which a cluster that does not answer counts as lost; until then its head may be restarted."""

GRACE_SECONDS = 8.0
"""Time that Tune has to finish handling an event before Ray is stopped regardless."""

STOP_SECONDS = 10.0
"""Time that Ray has to end its processes before they are killed."""


_undo: list[Callable[[], object]] = []
"""Clean-up steps that `stop` runs, last in, first out."""


def make_socket_folder() -> tuple[Path, str]:
    """Creates a folder, removed by `stop`, whose path is short enough for the sockets in it.

    Returns:
        The folder, and a sentence if it is not where the environment asks for it, else "".

    Raises:
        SettingsError: No such folder can be made.
    """
    asked = [(name, os.environ[name]) for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    usual = [("", place) for place in ("/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm") if place]
    why = []
    for name, place in (*asked, *usual):
        shown = f"{name}={printable(place)}" if name else place
        try:
            folder = _new_folder(Path(place))
        except OSError as error:
            why.append(f"{shown} ({error.strerror or error})")
            continue
        note = f"Ray's sockets and logs are in {folder} instead of {why[0]}." if asked and why else ""
        return folder, note
    raise SettingsError(
        f"Ray needs a folder for its sockets, and none can be created in {', '.join(why)}; "
        "set RAY_TMPDIR to a writable folder with a short path"
    )


def _new_folder(place: Path) -> Path:
    place = place.absolute()
    if len(os.fsencode(place / f"{FOLDER}01234567" / "r")) + SESSION_BYTES > SOCKET_BYTES:
        raise OSError("its path is too long for a socket in it")
    if shutil.disk_usage(place).free < ROOM_BYTES:
        raise OSError("its disk is full")
    _remove_abandoned(place)
    # Ray's own folder is readable by everyone, so it goes into one that is not
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=place))
    lock = FileLock(folder / LOCK)
    lock.acquire()

    def undo() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()

    _undo.append(undo)
    return folder


def _remove_abandoned(place: Path) -> None:
    """Removes the folders of processes that were killed, which are those whose lock is free."""
    for path in place.glob(f"{FOLDER}*/{LOCK}"):
        with suppress(OSError, Timeout), FileLock(path, timeout=0):
            shutil.rmtree(path.parent, ignore_errors=True)


# ---------------------------------------- start and end


def start(environment: Mapping[str, str], **options: Any) -> str:
    """Starts Ray on this machine, for this process only.

    Args:
        environment: Further environment variables of it and of its processes.
        **options: Options of `ray.init`.

    Returns:
        A sentence about where its files are, "" if that is as asked.

    Raises:
        SettingsError: It cannot be started.
    """
    folder, note = make_socket_folder()
    _silence()
    # by the environment: the home folder, where Ray would keep the token, may not be writable
    _set_environment({**OWN_ENVIRONMENT, **environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        ray.init(
            address="local",  # otherwise Ray would join any cluster on this machine, which would lack our code
            num_cpus=allowed_cpus(),
            include_dashboard=False,
            _temp_dir=str(folder / "r"),
            **options,
        )
    except Exception as error:
        why = _last_error(folder) or str(error).strip().splitlines()[-1]
        stop()
        raise SettingsError(f"Ray cannot be started on this machine: {why}") from error
    return note


def _last_error(folder: Path) -> str:
    """The last error in the logs of Ray's processes."""
    for file in (*folder.glob("r/session_*/logs/raylet.out"), *folder.glob("r/session_*/logs/gcs_server.out")):
        with suppress(OSError):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            fatal = [line for line in lines if " C " in line[:40] or " F " in line[:40]]
            if fatal:
                return printable(fatal[-1].partition("] ")[2] or fatal[-1])
    return ""


def connect(**options: Any) -> None:
    """Connects to a running cluster.

    Args:
        **options: Options of `ray.init`, including `address`.

    Raises:
        ConnectionError: No cluster answers at the address.
        ValueError: The address is malformed.
    """
    _silence()
    _set_environment(LASTING_ENVIRONMENT)
    ray.init(**options)


def _silence() -> None:
    """Keeps the logs of Ray's processes off the screen until `stop`.

    What ends a trial or the search is reported in one sentence by the record or the search itself.
    """
    printed = worker.print_to_stdstream

    def undo() -> None:
        worker.print_to_stdstream = printed

    _undo.append(undo)
    worker.print_to_stdstream = lambda data, **_: log.debug("%s: %s", data["pid"], "\n".join(data["lines"]))


def _set_environment(changes: Mapping[str, str]) -> None:
    """Sets environment variables until `stop`, and makes Ray, which is already imported, read them."""
    # connecting to Ray replaces `breakpoint()`
    before = {name: os.environ.get(name) for name in (*changes, "PYTHONBREAKPOINT")}
    loopback = ray_constants.ENABLE_RAY_CLUSTER

    def undo() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        ray_constants.ENABLE_RAY_CLUSTER = loopback
        _read_environment()

    _undo.append(undo)
    os.environ.update(changes)
    if changes.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False
    _read_environment()


def _read_environment() -> None:
    """Makes Ray, which reads its settings and its token once, read them again."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def stop(seconds: float = STOP_SECONDS) -> None:
    """Disconnects from Ray, and kills the processes that were started here if they do not end in time.

    Args:
        seconds: Time that they have to end.
    """
    node = worker._global_node
    processes = [info.process for infos in getattr(node, "all_processes", {}).values() for info in infos]
    ending = threading.Thread(target=_shut_down, name="ray-shutdown", daemon=True)
    ending.start()
    ending.join(seconds)
    if ending.is_alive():
        # it would wait once more at interpreter exit
        atexit.unregister(ray.shutdown)
        for process in processes:
            with suppress(OSError):
                process.kill()
        ending.join(GRACE_SECONDS)
    while _undo:
        _undo.pop()()


def _shut_down() -> None:
    try:
        ray.shutdown()
    except Exception:
        # its processes have ended or will be killed
        log.debug("ray.shutdown", exc_info=True)


# ---------------------------------------- while it runs


class Watch:
    """Checks whether the processes that Ray cannot work without are alive."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._answered = self._asked

    def lost_process(self) -> str:
        """The process that has ended, in words; "" while all are alive."""
        node = worker._global_node
        if node is None:
            return "Ray, which was shut down,"
        own = {name: node.all_processes.get(name, []) for name in ("raylet", "gcs_server")}
        for name, infos in own.items():
            if any(info.process.poll() is not None for info in infos):
                return f"Ray's process {name}"
        if any(own.values()):
            return ""
        return self._unreachable(node)

    def _unreachable(self, node: Any) -> str:
        """The process of a cluster that no longer answers: its head by port, the one on this machine by socket."""
        now = time.monotonic()
        if now - self._asked < UNREACHABLE_SECONDS / 4:
            return ""
        self._asked = now
        missing = ""
        host, _, port = str(node.gcs_address).rpartition(":")
        if not _answers(socket.AF_INET6 if ":" in host else socket.AF_INET, (host.strip("[]"), int(port))):
            missing = f"the head of the Ray cluster at {node.gcs_address}"
        elif not _answers(socket.AF_UNIX, node.raylet_socket_name):
            missing = "Ray's process raylet on this machine"
        if not missing:
            self._answered = now
        return missing if now - self._answered > UNREACHABLE_SECONDS else ""


def _answers(family: int, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as asking:
        asking.settimeout(3.0)
        try:
            asking.connect(address)
        except OSError:
            return False
    return True


def run_watched(
    work: Callable[[], object], interrupted: Callable[[], bool], interrupt: Callable[[], None], own: bool
) -> str:
    """Runs a function that uses Ray in a thread, and returns even if Ray loses a process.

    Args:
        work: The function; it returns soon after `interrupt`, unless it waits for a process that has ended.
        interrupted: Whether the search has been interrupted.
        interrupt: Asks for the end of the search.
        own: Whether Ray was started here and may be stopped while `work` runs.

    Returns:
        The process of Ray that has ended, "" if `work` returned by itself.

    Raises:
        KeyboardInterrupt: The search was interrupted.
        BaseException: What `work` has raised.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, name="tune", daemon=True)
    thread.start()
    watch, lost, since = Watch(), "", 0.0
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            lost = lost or watch.lost_process()
            if not (lost or interrupted()):
                continue
            interrupt()
            since = since or time.monotonic()
            if (own or lost) and time.monotonic() - since > GRACE_SECONDS:
                break
    finally:
        if thread.is_alive():
            interrupt()
            _release(thread, own or bool(lost))
    if lost:
        return lost
    if raised:
        raise raised[0]
    if interrupted():
        raise KeyboardInterrupt
    return ""


def _release(thread: threading.Thread, end: bool) -> None:
    """Stops Ray if `end` is true, so that whatever the thread waits for raises an error."""
    if end:
        # otherwise the thread's next call would start another Ray
        auto_init_hook.enable_auto_connect = False
        stop()
    thread.join(GRACE_SECONDS)
    if not thread.is_alive():
        auto_init_hook.enable_auto_connect = True
