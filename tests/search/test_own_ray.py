"""The Ray that a search starts: where it lies, who can reach it, what it may use, and how it ends."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.execution import cluster, cpus
from search.execution.cpus import SCHEDULERS, SLURM_GPUS, allowed_cpus, machine_share, slurm_gpus
from search.settings import SettingsError

ROOT = Path(__file__).parents[2]


# --- what may be used -------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """groups({file: text}, membership): control groups as Linux shows them, on a machine with 64 free CPUs."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for name in SCHEDULERS:
        monkeypatch.delenv(name, raising=False)

    def made(files: dict[str, str], membership: str = "0::/") -> int:
        for name, text in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(text)
        (tmp_path / "proc" / "self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(membership)
        return allowed_cpus(tmp_path / "proc", tmp_path / "cgroup")

    return made


@pytest.mark.parametrize(
    ("files", "membership", "cpus"),
    [
        ({}, "", 64),
        ({"cpu.max": "max 100000"}, "0::/", 64),
        ({"cpu.max": "350000 100000\n"}, "0::/", 3),
        ({"cpu.max": "50000 100000"}, "0::/", 1),
        ({"cpu.max": "garbage"}, "0::/", 64),
        # Slurm, systemd: the quota of a group around counts as well
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "800000 100000", "a/b/cpu.max": "400000 100000"}, "0::/a/b", 4),
        # a container that does not see its own group's name
        ({"cpu.max": "500000 100000"}, "0::/docker/0123", 5),
        # version 1
        ({"cpu,cpuacct/a/cpu.cfs_quota_us": "600000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
         "3:memory:/x\n4:cpu,cpuacct:/a\n", 6),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpuacct,cpu:/docker/1", 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", 64),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(files, membership, cpus, groups):
    assert groups(files, membership) == cpus


def test_where_the_numbers_come_from_is_said(groups, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", *SLURM_GPUS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpus, "_quotas", lambda *_: [])
    assert machine_share(None) == "trials may use all 64 CPUs of this machine"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine_share(None) == "trials may use 8 CPUs of this machine's 64 (CPU affinity)"
    # bound to what was asked for: the batch system is what a person knows
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "16")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    said = "trials may use 8 CPUs of this machine's 64 (SLURM_CPUS_PER_TASK=8)"
    assert machine_share(None) == said
    assert machine_share(4) == f"{said} and 4 GPUs (all of this machine's)"
    monkeypatch.setenv("SLURM_JOB_GPUS", "1,3")
    assert slurm_gpus(4) == "1,3" and machine_share(2) == f"{said} and 2 GPUs (SLURM_JOB_GPUS=1,3)"
    # a control group hides the others, numbers are no numbers, or Slurm has set what CUDA reads
    assert slurm_gpus(2) == ""
    monkeypatch.setenv("SLURM_JOB_GPUS", "gpu:1")
    assert slurm_gpus(4) == ""
    monkeypatch.setenv("SLURM_JOB_GPUS", "1,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert slurm_gpus(4) == "" and machine_share(1) == f"{said} and 1 GPU (CUDA_VISIBLE_DEVICES=0)"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_a_batch_system_has_given(name, groups, monkeypatch):
    monkeypatch.setenv(name, "6")
    assert groups({}) == 6
    assert groups({"cpu.max": "200000 100000"}) == 2
    monkeypatch.setenv(name, "many")
    assert groups({"cpu.max": "max 100000"}) == 64


def test_bound_to_some_cpus(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert groups({"cpu.max": "max 100000"}) == 2


# --- where it lies ----------------------------------------------------------------------------------------


@pytest.fixture
def undone():
    """What is begun here ends with the test."""
    yield
    while cluster._undo:
        cluster._undo.pop()()


@pytest.fixture
def places(monkeypatch, undone):
    for name in ("TMPDIR", "RAY_TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_it_lies_where_it_is_asked_for(places):
    short = Path("/tmp/lt-test-here")
    short.mkdir(exist_ok=True)
    try:
        places("TMPDIR", str(short))
        folder, note = cluster.make_socket_folder()
        assert folder.parent == short and note == "" and folder.stat().st_mode & 0o077 == 0
        places("RAY_TMPDIR", "/tmp")
        assert cluster.make_socket_folder()[0].parent == Path("/tmp")
    finally:
        shutil.rmtree(short)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("/tmp/slurm_jobdir_1355700_people_poebhkiwa_tmp_t0016", "its path is too long for a socket in it"),
        ("/proc/nowhere", "No such file or directory"),
        ("/dev/null", "Not a directory"),
    ],
)
def test_a_place_without_sockets_is_said_and_another_is_taken(place, why, places):
    places("TMPDIR", place)
    folder, note = cluster.make_socket_folder()
    assert len(str(folder)) < 40
    assert note.startswith(f"Ray's sockets and logs are in {folder} instead of TMPDIR={place} ({why}).")


def test_no_place_at_all_is_a_sentence(places, monkeypatch):
    def full(**named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    places("TMPDIR", "/proc/nowhere")
    monkeypatch.setattr(cluster.tempfile, "mkdtemp", full)
    with pytest.raises(SettingsError, match=r"TMPDIR=/proc/nowhere .*, /tmp \(No space .*set RAY_TMPDIR"):
        cluster.make_socket_folder()


LEFT = """
import os
from search.execution import cluster
from search.execution.cpus import SCHEDULERS, allowed_cpus
print(cluster.make_socket_folder()[0], flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_and_what_is_used_stays(places):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    killed = subprocess.run([sys.executable, "-c", LEFT], env=environment, capture_output=True, text=True, timeout=120)
    left = Path(killed.stdout.strip())
    assert killed.returncode == -signal.SIGKILL and left.is_dir()
    first, _ = cluster.make_socket_folder()
    second, _ = cluster.make_socket_folder()
    assert not left.exists() and first.is_dir() and second.is_dir()
    while cluster._undo:
        cluster._undo.pop()()
    assert not first.exists() and not second.exists()


# --- who can reach it -------------------------------------------------------------------------------------


ASKED = """
import json, os, sys, time
import ray
before = {**os.environ}
from search.execution import cluster, gpu_shares
from search.settings import Settings
import psutil

settings = Settings(name="x", space="x", data="digits-lt")
note = gpu_shares.connect(settings)
me = psutil.Process()
pids = ray.get([ray.remote(lambda: os.getpid()).remote()])
family = [me, *me.children(recursive=True)]
sockets = [socket for process in family for socket in process.net_connections() if socket.status == "LISTEN"]
listening = sorted({socket.laddr.ip.removeprefix("::ffff:") for socket in sockets})
folder = ray._private.worker._global_node.get_temp_dir_path()
found = {
    "listening": listening, "slots": gpu_shares.concurrent_trials(settings), "note": note, "folder": folder,
    "mode": os.environ["RAY_AUTH_MODE"], "token": len(os.environ["RAY_AUTH_TOKEN"]),
    "worker": pids[0] in {p.pid for p in family},
}
cluster.stop()
found["left"] = [p.pid for p in psutil.wait_procs(family[1:], timeout=20)[1]]
found["restored"] = dict(os.environ) == before
found["gone"] = not os.path.exists(folder)
# and once more, with another token
gpu_shares.connect(settings)
found["again"] = ray.get(ray.remote(lambda: 7).remote())
cluster.stop()
print(json.dumps(found))
"""


def test_nobody_else_can_reach_it_and_nothing_of_it_stays(tmp_path):
    """With a home that cannot be written, a temporary folder whose name is too long, and one CPU."""
    long = tmp_path / ("letters" * 10)
    long.mkdir()
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HOME": "/proc/nowhere", "TMPDIR": str(long),
    }  # fmt: skip
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR"):
        environment.pop(name, None)
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" if sys.platform == "linux" else ""
    ran = subprocess.run(
        [sys.executable, "-c", f"{bound}\n{ASKED}"], env=environment, capture_output=True, text=True, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["listening"] == ["127.0.0.1"], "somebody on the network could run code here"
    assert (found["mode"], found["token"], found["worker"]) == ("token", 64, True)
    assert found["slots"] == 1 or sys.platform != "linux"
    assert "too long for a socket" in " ".join(found["note"]) and len(found["folder"]) < 40
    assert found["left"] == [] and found["restored"] and found["gone"] and found["again"] == 7
    assert "Traceback" not in ran.stderr and "token" not in ran.stderr.lower(), ran.stderr


# --- when it loses a process ------------------------------------------------------------------------------


SPACE = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(stages=[Stage("only", epochs=8, choose=[one_of(None, "cost_sensitive")])], screen=["only/cost_sensitive"])
"""


def child(parent: int, name: str) -> int:
    """The process id of Ray's process of that name."""
    lines = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()]
    return next(int(pid) for pid, ppid, what in rows if int(ppid) == parent and Path(what).name == name)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param("gcs_server", signal.SIGKILL, marks=pytest.mark.slow),
        ("raylet", signal.SIGKILL),
        pytest.param("gcs_server", signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_a_search_that_loses_a_process_of_ray_shows_what_it_has_and_ends(name, number, tmp_path, uri):
    (tmp_path / "space.py").write_text(SPACE)
    flags = ["--trials", "0", "--seeds", "8", "--no-race", "--no-checks", "--no-start-points", "--max-concurrent", "1"]
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "run_search.py"), "--space", "space.py", *flags, "--name", "lost"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        journal = tmp_path / "results" / "lost" / "journal.jsonl"
        deadline = time.monotonic() + 200
        while not (journal.exists() and journal.read_text().count('"event": "record"') >= 2):
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(child(driver.pid, name), number)
        if number == signal.SIGSTOP:  # nobody can tell that from slowness, but Ctrl-C must work
            os.kill(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=300)  # seconds on a quiet machine; what hangs never ends
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.communicate()
    assert driver.returncode == (130 if number == signal.SIGSTOP else 1), (out, err)
    if number == signal.SIGKILL:
        assert f"Ray's process {name} is gone" in out
    assert "Best recipe" in out and "python run_search.py --resume lost" in out
    assert "Traceback" not in out + err and "state-dump" not in out + err, (out, err)
    assert (tmp_path / "results" / "lost" / "report.html").is_file()
    records = [json.loads(line) for line in journal.read_text().splitlines() if '"event": "record"' in line]
    assert {record["record"]["outcome"] for record in records} == {"finished"}, "a trial has failed by that"
