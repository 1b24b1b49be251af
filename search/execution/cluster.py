"""Ray's processes: started here for this machine alone, watched while they are needed, and ended for certain.

A Ray of our own listens on the loopback interface alone, asks for a token that only this process and its children
know, and lies in a folder of its own that goes away with it. The loop of Ray Tune runs in a thread, so that the main
thread can always answer Ctrl-C, and end a search whose Ray has lost a process: Tune would wait for it for ever.
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
"""Ray ends this process without a word a minute after its head has died; what was found out must be shown first."""

OWN_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: no process listens but on loopback
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    **LASTING_ENVIRONMENT,
}
"""Of a Ray that is started here, and of its processes; the token comes with it."""

SOCKET_BYTES = 103
"""The longest name of a socket that every system takes; on Linux it is 107."""

SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
"""What Ray appends to its folder for the name of a socket."""

FOLDER, LOCK = "lt-ray-", "lock"
"""How the name of Ray's folder begins, and the file in it that is locked while its process lives."""

ROOM_BYTES = 32 * 10**6
"""What Ray's logs and sockets take at least."""

POLL_SECONDS = 0.5
"""How often it is looked whether Ray's processes live."""

UNREACHABLE_SECONDS = 20.0
"""After how long a cluster that does not answer counts as gone: its head may be started again."""

GRACE_SECONDS = 8.0
"""How long Tune may take to come to the end of an event before Ray is ended under it."""

STOP_SECONDS = 10.0
"""How long Ray may take to end its processes before they are killed."""


_undo: list[Callable[[], object]] = []
"""What ends with the Ray that was started here, last first."""


def short_folder() -> tuple[Path, str]:
    """A new folder until `stop`, whose name is short enough for sockets in it.

    Returns:
        The folder, and a sentence where it does not lie where the environment asks for it.

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
        note = f"Ray's sockets and logs are in {folder}, not in {why[0]}." if asked and why else ""
        return folder, note
    raise SettingsError(
        f"Ray needs a folder for its sockets, and none can be made in {', '.join(why)}; "
        "set RAY_TMPDIR to a folder with a short name that can be written to"
    )


def _new_folder(place: Path) -> Path:
    place = place.absolute()
    if len(os.fsencode(place / f"{FOLDER}01234567" / "r")) + SESSION_BYTES > SOCKET_BYTES:
        raise OSError("its name is too long for a socket in it")
    if shutil.disk_usage(place).free < ROOM_BYTES:
        raise OSError("its disk is full")
    _remove_left(place)
    # a folder that nobody else can look into, as Ray opens its own to everybody
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=place))
    lock = FileLock(folder / LOCK)
    lock.acquire()

    def undo() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()

    _undo.append(undo)
    return folder


def _remove_left(place: Path) -> None:
    """Removes the folders of processes that were killed: nobody holds their locks."""
    for path in place.glob(f"{FOLDER}*/{LOCK}"):
        with suppress(OSError, Timeout), FileLock(path, timeout=0):
            shutil.rmtree(path.parent, ignore_errors=True)


# ------------------------------------------------------------------------------------------ start and end


def start(**options: Any) -> str:
    """Starts a Ray of this process's own.

    Args:
        **options: Of `ray.init`.

    Returns:
        A sentence about where it lies, "" where that is as asked.

    Raises:
        SettingsError: It cannot be started.
    """
    folder, note = short_folder()
    _silence()
    # a token by environment, as the home folder, where Ray would keep one, may not be writable
    _set_environment({**OWN_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    try:
        ray.init(
            address="local",  # without it Ray would join whatever runs on the machine, to which no code is sent
            num_cpus=allowed_cpus(),
            include_dashboard=False,
            _temp_dir=str(folder / "r"),
            **options,
        )
    except Exception as error:
        why = _last_words(folder) or str(error).strip().splitlines()[-1]
        stop()
        raise SettingsError(f"Ray cannot be started on this machine: {why}") from error
    return note


def _last_words(folder: Path) -> str:
    """The last error that a process of Ray has logged."""
    for file in (*folder.glob("r/session_*/logs/raylet.out"), *folder.glob("r/session_*/logs/gcs_server.out")):
        with suppress(OSError):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            fatal = [line for line in lines if " C " in line[:40] or " F " in line[:40]]
            if fatal:
                return printable(fatal[-1].partition("] ")[2] or fatal[-1])
    return ""


def join(**options: Any) -> None:
    """Joins a cluster that somebody has started.

    Args:
        **options: Of `ray.init`, its `address` among them.

    Raises:
        ConnectionError: None answers there.
        ValueError: The address cannot be one.
    """
    _silence()
    _set_environment(LASTING_ENVIRONMENT)
    ray.init(**options)


def _silence() -> None:
    """Keeps what Ray prints of its processes off the screen until `stop`: pages of their logs, amid the display.

    What ends a trial or the search is told by them, in a sentence.
    """
    printed = worker.print_to_stdstream

    def undo() -> None:
        worker.print_to_stdstream = printed

    _undo.append(undo)
    worker.print_to_stdstream = lambda data, **_: log.debug("%s: %s", data["pid"], "\n".join(data["lines"]))


def _set_environment(changes: Mapping[str, str]) -> None:
    """Sets environment variables until `stop`, and tells the Ray that is imported already."""
    # Ray itself makes `breakpoint()` its own when it is joined
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
    """Lets Ray, which reads them once, read its settings and its token again."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def stop(seconds: float = STOP_SECONDS) -> None:
    """Leaves the Ray that was started or joined here; its own processes are killed where they do not end.

    Args:
        seconds: How long they may take.
    """
    node = worker._global_node
    processes = [info.process for infos in getattr(node, "all_processes", {}).values() for info in infos]
    ending = threading.Thread(target=_shut_down, name="ray-shutdown", daemon=True)
    ending.start()
    ending.join(seconds)
    if ending.is_alive():
        # it would wait again when the interpreter ends
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
        # its processes are gone or will be killed; nobody waits for more
        log.debug("ray.shutdown", exc_info=True)


# ------------------------------------------------------------------------------------------ while it runs


class Watch:
    """Looks whether the processes live without which Ray does nothing."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._answered = self._asked

    def gone(self) -> str:
        """What is gone, in words; "" while all is well."""
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
        """Of a cluster, asked now and then: its head by its port, and the process of this machine by its socket."""
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
    """Does work with Ray in a thread, and comes back in any case.

    Args:
        work: To do; ends soon after `interrupt`, unless it waits for what is gone.
        interrupted: Whether the search has been interrupted.
        interrupt: Asks for its end.
        own: Whether Ray may be ended under it.

    Returns:
        Which process of Ray is gone, "" where the work came to its own end.

    Raises:
        KeyboardInterrupt: The search was interrupted.
        BaseException: What the work has raised.
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
            lost = lost or watch.gone()
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
    """Ends Ray, by which whatever a thread waits for there ends with an error."""
    if end:
        # else the thread's next call would start another Ray
        auto_init_hook.enable_auto_connect = False
        stop()
    thread.join(GRACE_SECONDS)
    if not thread.is_alive():
        auto_init_hook.enable_auto_connect = True
