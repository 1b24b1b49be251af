"""The job scripts of docs/slurm, run under a fake Slurm with real searches, signals and kills."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import yaml

from search.__main__ import parser
from search.request import make_request
from search.scheduling.journal import Journal
from tests.search import in_process
from tests.search.fake_slurm import ROOT, FakeSlurm, Job
from tests.search.test_workers import outcomes
from tests.search.whole_searches import UNHURRIED

SCRIPTS = ROOT / "docs" / "slurm"

SPACE = """
from spaces.domain import Space, Stage, log_uniform, one_of

SPACE = Space(
    stages=[
        Stage("first", epochs=6, lr=log_uniform(0.03, 0.3, step="halves"), choose=[
            "unhurried", one_of(None, "cost_sensitive"), one_of(None, "input_mixup")]),
        one_of(Stage("finish", epochs=2, lr=0.05, carry="weights", choose=["unhurried"]),
               Stage("classifier", epochs=2, lr=0.05, carry="weights", choose=["unhurried", "classifier"])),
    ],
    screen=["first/cost_sensitive", "first/input_mixup"],
)
"""

OPTIONS = {
    "seeds": 3, "trials": 12, "lag": 3, "race": False, "start_points": False, "check_seeds": 0, "rungs": (0.5,),
    "rung_score": "accuracy", "reduction_factor": 2.0, "children_per_start": 2,
}  # fmt: skip

FLAGS = [
    "--seeds", "3", "--trials", "12", "--lag", "3", "--no-race", "--no-start-points", "--no-checks", "--rungs", "0.5",
    "--rung-score", "accuracy", "--reduction-factor", "2", "--children-per-start", "2", "--tracking-uri", "none",
]  # fmt: skip


@pytest.fixture
def slurm(tmp_path) -> Iterator[FakeSlurm]:
    it = FakeSlurm(tmp_path / "slurm")
    yield it
    it.end()


@pytest.fixture
def submit(slurm, tmp_path) -> Callable[..., list[Job]]:
    """submit(script, *flags, **options of sbatch): its jobs, which search a space whose trials take a second."""
    place = tmp_path / "slurm"
    (place / "tricks").mkdir()
    (place / "tricks" / "unhurried.py").write_text(UNHURRIED.format(body="pass", seconds=0.12))
    (place / "space.py").write_text(SPACE)
    data = in_process.features(tmp_path)

    def made(script: str, *flags: str, variables: dict[str, str] | None = None, **options: str) -> list[Job]:
        search = ["--space", "space.py", "--tricks", "tricks", "--data", data, *FLAGS, *flags]
        given = {"cpus-per-task": "1", **{name.replace("_", "-"): value for name, value in options.items()}}
        return slurm.sbatch(
            SCRIPTS / script, *search, options=given, NAME="s", RESULTS=str(place / "results"), **variables or {}
        )

    return made


@pytest.fixture
def alone(tmp_path) -> Path:
    """The folder of the same search, uninterrupted and in one process."""
    place = tmp_path / "alone"
    (place / "tricks").mkdir(parents=True)
    (place / "tricks" / "unhurried.py").write_text(UNHURRIED.format(body="pass", seconds=0))
    (place / "space.py").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        found = in_process.run(
            place, place / "space.py", **OPTIONS, tricks=("tricks",), data=in_process.features(tmp_path), imbalance=None
        )
    assert found.complete and "stopped" in set(found.trials["outcome"])
    return found.folder


def recorded(tmp_path: Path, count: int, *jobs: Job) -> None:
    """Waits until so many trials have ended."""
    journal = tmp_path / "slurm" / "results" / "s" / "journal.jsonl"
    until(lambda: journal.exists() and journal.read_text().count('"event": "record"') >= count, *jobs)


def until(true: Callable[[], bool], *jobs: Job) -> None:
    deadline = time.monotonic() + 500
    while not true():
        assert all(job.runs for job in jobs), [job.output for job in jobs]
        assert time.monotonic() < deadline, [job.output for job in jobs]
        time.sleep(0.05)


def test_a_task_of_an_array_requeues_itself_alone(slurm, tmp_path):
    slurm.install("longtail-tune", "#!/bin/bash\nexit $((75 - 75 * SLURM_ARRAY_TASK_ID))\n")
    jobs = slurm.sbatch(
        SCRIPTS / "array.sh", options={"array": "0-1", "cpus-per-task": "1"}, NAME="s", RESULTS=str(tmp_path)
    )
    assert [(job.wait(60), job.requeued) for job in jobs] == [(75, True), (0, False)], jobs[0].output


def test_a_ray_cluster_of_one_node_starts_one_ray_and_a_search_with_its_address(slurm, tmp_path):
    log = tmp_path / "log"
    status = f'[ "$1" = status ] && {{ grep -q "ray start" {log} 2>/dev/null && echo node_1; exit; }}'
    slurm.install("ray", f'#!/bin/bash\n{status}\necho "ray $*" >> {log}\n')
    slurm.install("longtail-tune", f'#!/bin/bash\necho "tune $*" >> {log}\n')
    (job,) = slurm.sbatch(
        SCRIPTS / "ray_cluster.sh", "--space", "a.py", options={"nodes": "1", "cpus-per-task": "1"},
        NAME="s", RESULTS=str(tmp_path), SLURM_JOB_NODELIST="one",
    )  # fmt: skip
    assert job.wait(60) == 0, job.output
    port = 20000 + job.number
    assert log.read_text().splitlines() == [
        f"ray start --head --port={port} --num-cpus=1 --include-dashboard=false --block",
        f"tune search --name s --space a.py --output {tmp_path} --address one:{port}",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_whose_time_is_up_goes_back_into_the_queue(submit, alone, tmp_path):
    """SIGUSR1 to the script, later to every process, then SIGTERM: the search ends as if nothing had been."""
    (job,) = submit("search.sh", "--max-concurrent", "2")
    recorded(tmp_path, 2, job)
    job.warn()
    assert job.wait() == 75 and job.requeued, job.output
    assert "SIGUSR1: the running trials end their epochs" in job.output and "--resume s" in job.output
    if os.cpu_count() > 1:
        assert f"trials may use 1 CPU of this machine's {os.cpu_count()} (SLURM_CPUS_PER_TASK=1)" in job.output
    folder = tmp_path / "slurm" / "results" / "s"
    for number, code in ((signal.SIGUSR1, 75), (signal.SIGTERM, 130)):
        kept = len(outcomes(folder))
        job.start()
        recorded(tmp_path, kept + 2, job)
        job.cancel(number)
        assert job.wait() == code and job.requeued == (code == 75), job.output
    assert "Traceback" not in job.output and "is gone" not in job.output, job.output
    (job,) = submit("search.sh")
    assert job.wait() == 0, job.output
    assert outcomes(folder) == outcomes(alone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_array_trains_one_search_though_drivers_end_and_die(submit, alone, tmp_path):
    jobs = submit("array.sh", "--workers", "3", array="0-1")
    recorded(tmp_path, 3, *jobs)

    def drives(job: Job) -> bool:
        return "no driver; starting it" in job.output

    first, second = sorted(jobs, key=drives, reverse=True)
    assert drives(first) and not drives(second)
    first.warn()
    assert first.wait() == 75 and first.requeued, first.output
    until(lambda: drives(second), second)
    first.start()
    kept = len(outcomes(tmp_path / "slurm" / "results" / "s"))
    recorded(tmp_path, kept + 2, *jobs)
    # the machine of the second driver fails; nobody is told
    second.cancel(signal.SIGKILL)
    second.wait()
    assert first.wait(1000) == 0, first.output
    assert first.output.count("no driver; starting it: longtail-tune search --resume s") == 1, first.output
    folder = tmp_path / "slurm" / "results" / "s"
    assert outcomes(folder) == outcomes(alone)
    best = [yaml.safe_load((each / "best.yaml").read_text())["plan"] for each in (folder, alone)]
    assert best[0] == best[1]
    events = Journal(folder / "journal.jsonl").events()
    ended = [event["record"]["trial"] for event in events if event["event"] == "record"]
    assert len(ended) == len(set(ended)), "a trial was repeated"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_ray_cluster_of_two_nodes(submit, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    here = ray.util.get_node_ip_address()
    # the paths of Ray's sockets must be short
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as short:
        variables = {"SLURM_JOB_NODELIST": f"{here},{here}", "PORT": str(port), "RAY_TMPDIR": short}
        (job,) = submit("ray_cluster.sh", variables=variables)
        recorded(tmp_path, 2, job)
        job.warn()
        assert job.wait() == 75 and job.requeued, job.output
        job.start()
        assert job.wait() == 0, job.output
    assert outcomes(tmp_path / "slurm" / "results" / "s") == outcomes(alone)


def test_the_manifest_for_kuberay_runs_command_lines_that_are_ours(tmp_path, monkeypatch):
    manifest = yaml.safe_load((ROOT / "docs" / "kuberay" / "rayjob.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert spec["shutdownAfterJobFinishes"] is True and spec["backoffLimit"] > 0
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "IMAGE" and container["resources"]["limits"] == container["resources"]["requests"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "SHARED-CLAIM"}
    assert groups[0]["rayStartParams"]["num-cpus"] == "0" and spec["rayClusterSpec"]["rayVersion"] == "RAY-VERSION"

    # what the shell would run, with and without a search that exists
    program = tmp_path / "longtail-tune"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    found = []
    for there in (False, True):
        text = spec["entrypoint"].replace("[ -e /shared/results/cifar/search.json ]", "true" if there else "false")
        assert text != spec["entrypoint"]
        found.append(words(text, tmp_path))
    monkeypatch.chdir(ROOT)
    started, resumed = found
    request = make_request(vars(parser().parse_args(started[1:])))
    assert (started[0], request.settings.address, request.settings.name) == ("search", "auto", "cifar")
    assert request.settings.folder == Path("/shared/results/cifar") and request.settings.gpus_per_trial == 0.5
    again = parser().parse_args(resumed[1:])
    assert (resumed[0], again.resume, again.output, again.address) == ("search", "cifar", "/shared/results", "auto")


def words(entrypoint: str, programs: Path) -> list[str]:
    """The arguments that an entrypoint gives to `longtail-tune`."""
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    run = subprocess.run(
        shlex.split(entrypoint), env={"PATH": path}, capture_output=True, text=True, check=True, timeout=60
    )
    return run.stdout.splitlines()
