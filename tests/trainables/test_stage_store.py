"""Keys of finished stages, and a store that never gives a wrong one."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from spaces.domain import Stage, trick
from trainables import code_identity, registry
from trainables.data import load
from trainables.pipeline import keys as key_module
from trainables.pipeline.keys import code_version, digest, stage_keys, trial_context
from trainables.pipeline.pipeline import Pipeline
from trainables.pipeline.store import StageStore
from trainables.plan import Plan
from trainables.registry import discover

CPU = torch.device("cpu")
KEY = digest("an entry")
TENSORS = {"w": torch.arange(1000, dtype=torch.float32), "n": torch.tensor(3)}
STATE = {"epochs": 2, "loss": 0.1 + 0.2, "points": [{"epoch": 1, "metrics": {"accuracy": 1 / 3}}]}


# --- keys -------------------------------------------------------------------------------------------------

STAGES = [
    Stage("a", epochs=3, lr=0.1, choose=["input_mixup"]),
    Stage("b", epochs=2, members=2, carry="weights", choose=["few_shot", "average", "tau_norm"]),
    Stage("c", epochs=1, carry="all"),
]


def keys(plan: Plan, **context):
    return stage_keys(plan, {"data": "d", "model": "m", "seed": 0} | context)


def changed(one, other):
    """By stage: whether its members and whether the stage itself have other keys."""
    return [
        (any(a != b for a, b in zip(first[:-1], second[:-1], strict=False)), first[-1] != second[-1])
        for first, second in zip(one, other, strict=True)
    ]


SAME, OTHER = (False, False), (True, True)


def test_every_stage_has_its_members_keys_and_its_own(make_plan):
    found = keys(make_plan(*STAGES))
    assert [len(stage) for stage in found] == [2, 3, 2]
    assert found[0][0] == found[0][1]
    assert len({key for stage in found for key in stage}) == 1 + 3 + 1
    assert all(len(key) == 32 for stage in found for key in stage)
    assert found == keys(make_plan(*STAGES))


def test_names_are_not_in_the_key(make_plan):
    renamed = [dataclasses.replace(stage, name=f"other_{stage.name}") for stage in STAGES]
    assert keys(make_plan(*STAGES)) == keys(make_plan(*renamed))


@pytest.mark.parametrize("context", [{"data": "e"}, {"model": "n"}, {"seed": 1}, {"numerics": {"threads": 2}}])
def test_everything_outside_the_plan_is_in_the_key(context, make_plan):
    assert changed(keys(make_plan(*STAGES)), keys(make_plan(*STAGES), **context)) == [OTHER] * 3


@pytest.mark.parametrize(
    ("number", "change", "expected"),
    [
        (0, {"lr": 0.2}, [OTHER, OTHER, OTHER]),
        (0, {"epochs": 4}, [OTHER, OTHER, OTHER]),
        (0, {"choose": ["cutout"]}, [OTHER, OTHER, OTHER]),
        (0, {"choose": [trick("input_mixup", alpha=0.3)]}, [OTHER, OTHER, OTHER]),
        (0, {"reduction": "mean"}, [OTHER, OTHER, OTHER]),
        (1, {"weight_decay": 0.0}, [SAME, OTHER, OTHER]),
        (1, {"batch_size": 8}, [SAME, OTHER, OTHER]),
        (1, {"schedule": "cosine"}, [SAME, OTHER, OTHER]),
        (1, {"momentum": 0.8}, [SAME, OTHER, OTHER]),
        (1, {"choose": [trick("few_shot", n_c=3), "average"]}, [SAME, OTHER, OTHER]),
        # members are the same for every number of them, every merge and every readout
        (1, {"members": 3}, [SAME, (False, True), OTHER]),
        (1, {"choose": ["few_shot", "greedy_soup", "tau_norm"]}, [SAME, (False, True), OTHER]),
        (1, {"choose": ["few_shot", "average"]}, [SAME, (False, True), OTHER]),
        (2, {"choose": ["tau_norm"]}, [SAME, SAME, OTHER]),
        (2, {"epochs": 2}, [SAME, SAME, OTHER]),
        # a merge ends the chain: carrying all or the weights of it is the same
        (2, {"carry": "weights", "lr": 0.1}, [SAME, SAME, SAME]),
    ],
)
def test_a_stage_changes_its_own_key_and_the_later_ones(number, change, expected, make_plan):
    stages = list(STAGES)
    stages[number] = dataclasses.replace(stages[number], **change)
    assert changed(keys(make_plan(*STAGES)), keys(make_plan(*stages))) == expected


def test_the_length_of_a_chain_is_in_the_keys_of_its_stages(make_plan):
    first, second = Stage("a", epochs=2), Stage("b", epochs=1, carry="all")
    base = keys(make_plan(first, second))
    assert changed(base, keys(make_plan(first, dataclasses.replace(second, epochs=2)))) == [OTHER, OTHER]
    assert changed(base, keys(make_plan(first, Stage("b", epochs=1, lr=0.1)))) == [OTHER, OTHER]


def test_the_fingerprint_the_seed_and_the_numerics_of_a_trial(make_plan, pipeline):
    plan = make_plan(*STAGES)
    data = load("digits-lt", imbalance=50)
    first = pipeline(plan, data=data).first_stage
    assert first == pipeline(plan, data=load("digits-lt", imbalance=50)).first_stage
    assert first != pipeline(plan, data=load("digits-lt", imbalance=50, split_seed=1)).first_stage
    assert first != pipeline(plan, data=load("digits-lt", imbalance=20)).first_stage
    assert first != Pipeline(plan, data, "resnet20", 0, CPU).first_stage
    context = trial_context("f", "resnet8", 0, CPU)
    assert set(context) == {"data", "model", "seed", "numerics"}
    assert context["numerics"]["threads"] == 1
    assert context["numerics"]["torch"] == torch.__version__


CODE = '''
"""A trick."""
from dataclasses import dataclass

import torch

from trainables.registry import trick


@trick(seam="weight", family="toys", source="nobody")
@dataclass(frozen=True)
class Toy:
    """What it does."""

    def build(self, facts):
        # why
        return lambda labels: torch.ones(labels.shape, dtype=torch.float64)
'''


def test_code_is_in_the_key_and_what_is_written_about_it_is_not(tricks_folder, make_plan):
    discover()
    known = dict(registry._ENTRIES)
    texts = {
        "toy_plain": CODE,
        "toy_words": CODE.replace("# why", "# other words\n").replace("What it does", "Otherwise").replace('"A', '"B'),
        "toy_silent": CODE.replace('    """What it does."""\n', ""),
        "toy_other": CODE.replace("torch.ones", "2 * torch.ones"),
    }
    for name, text in texts.items():
        (tricks_folder / f"{name}.py").write_text(text)
    discover(tricks_folder)
    versions = {name: code_version(name) for name in texts}
    assert versions["toy_plain"] == versions["toy_words"] == versions["toy_silent"] != versions["toy_other"]
    plans = {name: keys(make_plan(Stage("a", epochs=1, choose=[name])))[0][0] for name in texts}
    assert len(set(plans.values())) == 4  # the trick's name is in the plan
    registry._ENTRIES.clear()
    registry._ENTRIES.update(known)


DECIDING = ("training/stage_run.py", "training/feed.py", "training/batch_gradient.py", "training/network_setup.py",
            "training/evaluator.py", "pipeline/pipeline.py", "pipeline/executor.py", "objective.py",
            "training/schedule.py", "metrics.py", "training/seeding.py", "batch.py", "data/augment.py",
            "data/loaders.py", "models/network.py")  # fmt: skip
ELSEWHERE = (
    "trial.py",
    "train.py",
    "data/describe.py",
    "tricks/focal.py",
    "final/training.py",
    "pipeline/housekeeping.py",
    "data/user_data/own.py",
)


@pytest.fixture
def copied(tmp_path):
    """A copy of the package."""
    place = tmp_path / "trainables"
    shutil.copytree(Path(key_module.__file__).parents[1], place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def core_version(place: Path) -> str:
    key_module._core_version.cache_clear()
    return key_module._core_version(place)


def test_the_core_is_every_module_that_decides_a_result(copied):
    before = core_version(copied)
    assert before == code_version()
    for name in (*DECIDING, *ELSEWHERE):
        text = (copied / name).read_text(encoding="utf-8")
        (copied / name).write_text(text + "\n# a comment\n", encoding="utf-8")
        assert core_version(copied) == before, name
        (copied / name).write_text(text + "\nEXTRA = 1\n", encoding="utf-8")
        assert (core_version(copied) != before) == (name in DECIDING), name
        (copied / name).write_text(text, encoding="utf-8")


def test_a_module_that_is_renamed_or_added_changes_the_key(copied):
    before = core_version(copied)
    (copied / "data" / "augment.py").rename(copied / "data" / "crops.py")
    for file in copied.rglob("*.py"):
        file.write_text(file.read_text(encoding="utf-8").replace("trainables.data.augment", "trainables.data.crops"))
    assert (renamed := core_version(copied)) != before
    (copied / "data" / "crops.py").write_text((copied / "data" / "crops.py").read_text() + "\nEXTRA = 1\n")
    assert core_version(copied) != renamed


def test_what_tricks_share_is_in_the_key_of_those_that_import_it_alone(tmp_path):
    shared = tmp_path / "_shared"
    shared.mkdir()
    (shared / "__init__.py").touch()
    (shared / "part.py").write_text("A = 1")
    (tmp_path / "one.py").write_text("from trainables.tricks._shared.part import A")
    (tmp_path / "two.py").write_text("from trainables.registry import trick")
    versions = []
    for _ in range(2):
        codes = [trick_files(tmp_path / f"{name}.py") for name in ("one", "two")]
        versions.append([code_identity.hash_of(code.values()) for code in codes])
        (shared / "part.py").write_text("A = 2")
    assert versions[0][0] != versions[1][0] and versions[0][1] == versions[1][1]


def trick_files(file: Path) -> dict[str, Path]:
    """As of a trick of the gallery; a folder of the test's own is the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_identity, "is_own", lambda path: False)
        return code_identity.trick_code(file)


# --- entries ----------------------------------------------------------------------------------------------


def test_what_is_put_is_got(tmp_path):
    store = StageStore(tmp_path / "stages")
    assert not store.has(KEY)
    assert store.get(KEY) is None
    store.put(KEY, TENSORS, STATE)
    assert store.has(KEY)
    got = store.get(KEY)
    assert got.state == STATE
    assert got.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(got.tensors[name], TENSORS[name]) for name in TENSORS)
    assert got.tensors["n"].dtype == torch.int64
    store.put(KEY, {"w": torch.zeros(1)}, {"other": 1})  # what is there stays
    assert store.get(KEY).state == STATE
    store.remove(KEY)
    assert not store.has(KEY)
    assert store.get(KEY) is None


def test_nothing_half_written_lies_about(tmp_path):
    store = StageStore(tmp_path)
    store.put(KEY, TENSORS, STATE)
    with pytest.raises(TypeError):
        store.put(digest("another"), TENSORS, {"not": {1, 2}})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {store.folder(KEY)}
    assert store.get(digest("another")) is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 32}))


DAMAGE = [
    ("tensors.safetensors", truncate),
    ("tensors.safetensors", alter),
    ("tensors.safetensors", Path.unlink),
    ("state.json", truncate),
    ("state.json", alter),
    ("state.json", Path.unlink),
    ("manifest.json", truncate),
    ("manifest.json", Path.unlink),
    ("manifest.json", foreign),
    ("manifest.json", lambda path: path.write_text("[]")),
    ("manifest.json", lambda path: path.write_text('{"key": null, "sha256": {}}')),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_a_damaged_entry_is_reported_removed_and_written_anew(file, damage, tmp_path, caplog):
    store = StageStore(tmp_path)
    store.put(KEY, TENSORS, STATE)
    damage(store.folder(KEY) / file)
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY) is None
    assert f"stage {KEY} in {tmp_path} is damaged" in caplog.text
    assert "it is removed and trained again" in caplog.text
    assert not store.folder(KEY).exists()
    store.put(KEY, TENSORS, STATE)
    assert store.get(KEY).state == STATE


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_trial_over_a_damaged_store_ends_the_same(file, tmp_path, caplog, make_plan, pipeline):
    stages = [Stage("a", epochs=1), Stage("b", epochs=1, members=2, choose=["few_shot", "average"])]
    plan = make_plan(*stages, Stage("c", epochs=1, carry="all"))
    store = StageStore(tmp_path)
    one = pipeline(plan, store=store)
    one.run()
    entries = sorted({key for stage in one.keys for key in stage})
    assert len(entries) == 5
    for key in entries:
        (alter if file != "manifest.json" else Path.unlink)(store.folder(key) / file)
    other = pipeline(plan, store=store)
    with caplog.at_level(logging.WARNING):
        other.run()
    assert caplog.text.count("is damaged") == 5
    assert other.reused == []
    assert other.cost.epochs_trained == plan.cost
    assert other.points == one.points
    assert other.result() == one.result()
    first, second = one.network().state_dict(), other.network().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = pipeline(plan, store=store)
    again.run()
    assert again.cost.epochs_trained == 0


# --- many at once -----------------------------------------------------------------------------------------


TWIN = """
import sys, time
from pathlib import Path

import torch

from trainables.pipeline.keys import digest
from trainables.pipeline.store import StageStore

torch.set_num_threads(1)
root, name, twin = sys.argv[1:]
store = StageStore(root)
Path(root, name).touch()
while not Path(root, twin).exists():
    time.sleep(0.001)
for turn in range(60):
    key, weights = digest(["shared", turn]), torch.full((100,), float(turn))
    store.put(key, {"w": weights}, {"turn": turn})
    got = store.get(key)
    assert got.state == {"turn": turn} and torch.equal(got.tensors["w"], weights)
"""


def test_two_processes_that_finish_the_same_stage_both_end_well(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", TWIN, str(tmp_path), *names], stderr=subprocess.PIPE, text=True)
        for names in (("one", "two"), ("two", "one"))
    ]
    assert [process.communicate(timeout=120)[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("*/*/manifest.json"))) == 60
    assert not list(tmp_path.rglob(".*"))


def test_threads_that_meet_in_the_rename(tmp_path):
    store, errors = StageStore(tmp_path), []
    for turn in range(20):
        key, start = digest(["turn", turn]), threading.Barrier(4)

        def put(key=key, start=start):
            start.wait()
            try:
                store.put(key, TENSORS, STATE)
                assert store.get(key).state == STATE
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_two_trials_at_the_same_time_share_a_store(tmp_path, make_plan, pipeline):
    """Epoch by epoch in turn: both train the first stage, and neither minds that the other was faster."""
    plan = make_plan(Stage("a", epochs=2), Stage("b", epochs=1, carry="all"))
    one, other = (pipeline(plan, store=StageStore(tmp_path)) for _ in range(2))
    while not (one.finished and other.finished):
        for run in (one, other):
            if not run.finished:
                run.advance()
    assert one.points == other.points
    assert one.result() == other.result()
