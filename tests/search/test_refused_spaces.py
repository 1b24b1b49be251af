"""Spaces of experts, views, queues and second passes that cannot be trained: one sentence, exit 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

import run_search

IMPOSSIBLE = {
    "an expert head and a trick that needs one linear head": (
        "['experts', 'max_norm']",
        "max_norm needs one linear or cosine classifier, and this plan's head is another; leave out either",
    ),
    "two readouts": ("['tau_norm', 'flip_tta']", "all sit on seam 'readout', which takes one trick per stage"),
    "two heads": ("['experts', 'cosine_head']", "all sit on seam 'head', which takes one trick per stage"),
    "a loss of three experts with two": (
        "[trick('experts', count=2), 'sade']",
        "sade needs '3 experts', which nothing in the plan provides; experts or reslt_conv_head or reslt_head",
    ),
    "a loss of experts without any": ("['ride']", "ride needs 'experts', which nothing in the plan provides"),
    "routers without experts": (
        "['expert_assignment', 'routing_loss']",
        "expert_assignment reads a trained network, so it cannot sit in the first stage",
    ),
    "a loss of routers without any": (
        "['experts', 'routing_loss']",
        "routing_loss needs 'routers', which nothing in the plan provides; expert_assignment provides it",
    ),
    "a student without a teacher": (
        "['distillation']",
        "distillation learns from the network of the stage before, so it cannot sit in the first stage",
    ),
    "a queue smaller than a batch": (
        "['several_views', trick('gpaco', queue=32)]",
        "gpaco has a queue of 32 entries, fewer than the 64 images of a batch",
    ),
    "a view that no trick makes": (
        "[trick('cutout', view=1)]",
        "cutout needs view 1 of each image (the first is 0), and the stage makes 1 view; add trick('several_views', "
        "count=2)",
    ),
    "two passes at a time": ("['sam', 'focal_sam']", "all sit on seam 'step', which takes one trick per stage"),
    "a partner that no trick draws": ("['cmo']", "cmo needs 'partner', which nothing in the plan provides"),
}


@pytest.mark.parametrize(("choose", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_it_is_refused_before_anything_is_written(choose, sentence, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("space.py").write_text(
        "from spaces.domain import Space, Stage, trick\n"
        f"SPACE = Space(stages=[Stage('only', epochs=1, choose={choose})])\n"
    )
    assert run_search.main(["--space", "space.py", "--trials", "0", "--no-race", "--no-start-points"]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and sentence in said.err and "stage 'only'" in said.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["space.py"]
