"""A search on a cluster of several nodes, one of which is lost: real Ray daemons, all on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.search.whole_searches import UNHURRIED

ROOT = Path(__file__).resolve().parents[2]

NOTE = """
            where = (os.getpid(), facts.counts[0].item(), progress, torch.get_num_threads(),
                     os.environ.get("OMP_NUM_THREADS"), trainables.__file__, __file__)
            with open({file!r}, "a") as file:
                file.write(repr(where) + "\\n")
"""
"""Notes down every call of the draw."""

SPACE = """
from spaces.domain import Space, Stage, one_of

SPACE = Space(
    stages=[Stage("first", epochs=60, choose=["unhurried", one_of(None, "cost_sensitive")])],
    screen=["first/cost_sensitive"],
)
"""

# not as a script: Ray adds a script's folder to the workers' path, which another machine does not have
DRIVER = "import sys, run_search; sys.exit(run_search.main(sys.argv[1:]))"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head without CPUs and two nodes of one CPU each, whose Python knows nothing of this project's checkout."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_is_lost_in_the_middle(cluster, tmp_path):
    place = tmp_path / "shared"
    (place / "mine").mkdir(parents=True)
    log = place / "log.txt"
    log.touch()
    body = NOTE.format(file=str(log)).strip()
    (place / "mine" / "unhurried.py").write_text(UNHURRIED.format(body=body, seconds=0.15))
    (place / "space.py").write_text(SPACE)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, "--address", cluster.address, "--space", "space.py",
         "--tricks", "mine", "--name", "many", "--seeds", "2", "--trials", "0", "--no-race",
         "--no-start-points"],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        partial = place / "results" / "stages" / "partial"
        deadline = time.monotonic() + 800
        # each node has kept what it has of its trial
        while len(list(partial.glob("*")) if partial.exists() else []) < 2:
            assert driver.poll() is None and time.monotonic() < deadline, driver.communicate()[0]
            time.sleep(0.1)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        said, _ = driver.communicate(timeout=800)
    finally:
        driver.kill()
    assert driver.returncode == 0, said

    lines = (place / "results" / "many" / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    records = [event["record"] for event in events if event["event"] == "record"]
    assert [record["outcome"] for record in records] == ["finished"] * 4, said
    lost = [event for event in events if event["event"] == "again"]
    assert len(lost) == 1 and "its process is gone" in lost[0]["reason"]

    notes = [eval(line) for line in log.read_text().splitlines()]
    # the code is what was sent, and so is the trick; one thread, on machines where nobody set it
    assert {note[3:5] for note in notes} == {(1, "1")}
    assert all("runtime_resources" in place for note in notes for place in note[5:]), notes[0]
    # 240 epochs, and no more of them twice than fall between two times that a stage is kept
    assert 240 <= len(notes) <= 240 + 45, len(notes)
    # each trial began at its beginning once: the lost one went on where it had been kept
    assert sum(1 for note in notes if note[2] == 0) == 4
