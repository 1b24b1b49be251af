"""What of the project meets what somebody else wrote: files, names, ports. Each line of the list has a test.

| what | where it is tested |
|---|---|
| nothing is unpickled, evaluated or given to a shell | here, in the sources and with files that would run code |
| what is read is checked before it is used | here, for every kind of file |
| a name does not leave its folder | here |
| ports listen on loopback | `tests/search/test_own_ray.py` |
| nothing is reported to anybody | here |
| an error of Ray stays in memory | `tests/search/test_ray_tune.py` |
| what a user names does not run in the report | `tests/analysis/test_hostile_report.py` |
| code that a recipe names runs where it is trusted alone | `tests/trainables/test_own_code.py` |
"""

import ast
import functools
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.records import mlflow_store
from analysis.records.schema import Decisions, Record
from search.execution import cluster
from search.mlflow_tracker import SearchRun
from search.option import SettingsError
from search.recipes.factory import RecipeFactory
from search.scheduling.budget import Budget
from search.scheduling.journal import Journal
from search.scheduling.orchestrator import restore
from search.settings import Settings
from search.state import SearchState
from search.workspace.identity import Identity
from spaces.domain import Space, Stage
from tests.test_architecture import ALL, ROOT
from trainables.data import load, standard
from trainables.deployment import Deployment
from trainables.deployment import read as read_deployment
from trainables.final.network import trained
from trainables.final.recipe import parse_recipe
from trainables.final.training import UnfinishedRun
from trainables.models import pretrained
from trainables.pipeline.store import StageStore

UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

ELSEWHERE = {
    "tests/search/test_own_ray.py": "somebody on the network could run code here",
    "tests/search/test_ray_tune.py": "test_an_error_stays_in_memory",
    "tests/analysis/test_hostile_report.py": "test_no_element_and_no_attribute_comes_from_the_data",
    "tests/trainables/test_own_code.py": "test_code_that_a_recipe_names_is_shown_and_does_not_run",
}


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Every node of the sources, with its file."""
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in ALL}
    return [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]


def calls() -> list[tuple[str, ast.Call, str]]:
    """Every call in the sources of a function or of a module's function: file, node, and its name as it is written."""
    found = []
    for file, node in nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append((file, node, node.func.id))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            found.append((file, node, f"{owner}.{node.func.attr}"))
    return found


def test_no_source_unpickles_evaluates_or_asks_a_shell():
    for file, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] != ["UnpicklingError"]:
            names += [str(node.module)]
        assert not UNPICKLERS & {name.partition(".")[0] for name in names}, file
    runs = set()
    for file, node, name in calls():
        simple = (keyword for keyword in node.keywords if isinstance(keyword.value, (ast.Constant, ast.Name)))
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in simple}
        where = f"{file}:{node.lineno}"
        if name == "torch.load":
            assert given.get("weights_only") == "True", where
        elif name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", where
        elif name == "yaml.load":
            assert given.get("Loader") == "loader", where  # safe: `test_files_that_would_run_code`
        elif name in ("exec", "eval"):
            runs.add(f"{file} {name}")
        assert name not in ("os.system", "os.popen") and given.get("shell") != "True", where
    # a space file is code of the person who names it
    assert runs == {"search/workspace/space_file.py exec"}


def test_what_is_tested_elsewhere_is():
    for file, words in ELSEWHERE.items():
        assert words in (ROOT / file).read_text(), file


class Payload:
    """Runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def weights(place: Path, payload: Payload) -> object:
    torch.save({"fc.weight": payload}, place / "w.pth")
    return pretrained.read(place / "w.pth")


def features(place: Path, payload: Payload) -> object:
    np.savez(place / "x.npz", x_train=np.array([payload], dtype=object), y_train=np.array([0]))
    return load(f"features:{place / 'x.npz'}")


def recipe(place: Path, payload: Payload) -> object:
    (place / "best.yaml").write_text(f"format: 1\ntitle: !!python/object/apply:os.mkdir ['{payload.mark}']\n")
    return parse_recipe(place / "best.yaml")


def expanding(place: Path, payload: Payload) -> object:
    (place / "best.yaml").write_text("format: 1\na: &a [x, x]\nb: [*a, *a]\n")
    return parse_recipe(place / "best.yaml")


def settings(place: Path, payload: Payload) -> object:
    (place / "search.json").write_bytes(pickle.dumps(payload))
    return Settings.stored(place.parent, place.name)


def identity(place: Path, payload: Payload) -> object:
    (place / "identity.json").write_text(json.dumps({"settings": [], "space": {"kind": "os.mkdir"}}))
    return Identity.read(place)


def record(place: Path, payload: Payload) -> object:
    return Record.from_dict({"schema": 1, "trial": "x", "arm": ["mkdir"]})


def journal(place: Path, payload: Payload) -> object:
    written = Journal(place / "journal.jsonl")
    written.write("task", task={"id": "adaptive-0000", "recipe": {"plan": {"stages": "mkdir"}}})
    space, data = Space(stages=[Stage("only", epochs=1)]), standard("digits-lt")
    state = SearchState(RecipeFactory(space, data), Settings(name="s", space="s", data="digits-lt"), 0.02)
    return restore(Journal(place / "journal.jsonl"), state, Budget(None, None, 0.0))


def deployment(place: Path, payload: Payload) -> object:
    return Deployment.from_dict({"prior": "mkdir", "cost": [["x"]]})


def prior(place: Path, payload: Payload) -> object:
    (place / "prior.csv").write_bytes(pickle.dumps(payload))
    return read_deployment(str(place / "prior.csv"), None, ["a", "b"])


def decisions(place: Path, payload: Payload) -> object:
    return Decisions.from_dict({"predicted": [1], "confusions": [["os", "mkdir", "x"]]})


def unfinished(place: Path, payload: Payload) -> object:
    folder = UnfinishedRun(place)
    folder.path.mkdir()
    (folder.path / "settings.json").write_bytes(pickle.dumps(payload))
    return folder.settings()


def trained_weights(place: Path, payload: Payload) -> object:
    (place / "model-seed5000.safetensors").write_bytes(pickle.dumps(payload))
    return trained(place, seed=5000)


@pytest.mark.parametrize(
    "read",
    [
        weights, features, recipe, expanding, settings, identity, record, journal, deployment, prior, decisions,
        unfinished, trained_weights,
    ],
)  # fmt: skip
def test_files_that_would_run_code_or_are_something_else_are_refused(read, tmp_path):
    place = tmp_path / "s"
    place.mkdir()
    mark = tmp_path / "code has run"
    with pytest.raises((ValueError, KeyError, TypeError)) as error:
        read(place, Payload(mark))
    assert not mark.exists()
    assert type(error.value).__module__.partition(".")[0] in ("analysis", "search", "trainables", "builtins")


def test_what_is_only_an_index_is_made_again(tmp_path):
    (tmp_path / "mlflow.json").write_bytes(pickle.dumps(Payload(tmp_path / "code has run")))
    assert SearchRun.read(tmp_path) is None
    store = StageStore(tmp_path / "stages")
    key = "ab" * 16
    store.put(key, {"w": torch.ones(2)}, {"kind": "stage"})
    (store.folder(key) / "tensors.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "code has run")))
    assert store.get(key) is None and not store.has(key)
    assert not (tmp_path / "code has run").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ".", "a\\b", "~", "-x", "stages", "a\nb", ""])
def test_a_name_does_not_leave_its_folder(name, tmp_path):
    try:
        folder = Settings(name=name, space="s", data="digits-lt", output=str(tmp_path)).folder
    except SettingsError as error:
        assert re.match("--name must be ", str(error))
    else:
        assert folder.parent == tmp_path and folder.resolve().parent == tmp_path.resolve()


def test_nothing_is_reported_and_nothing_listens_for_others(monkeypatch):
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    mlflow_store.quiet()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert cluster.OWN_ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"
    assert cluster.OWN_ENVIRONMENT["RAY_AUTH_MODE"] == "token"
    started = [node for file, node, name in calls() if name == "ray.init" and file == "search/execution/cluster.py"]
    given = [{keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords} for node in started]
    assert [one["include_dashboard"] for one in given if one.get("address") == "'local'"] == ["False"]
    assert not [path for path in ALL if "0.0.0.0" in path.read_text(encoding="utf-8")]
