"""One thread, and what many tests train: short plans on a few digits."""

import logging
import os
import runpy
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from spaces.domain import Space, Stage
from trainables import registry
from trainables.data import LongTailed, load, standard
from trainables.data.long_tail import class_counts
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan, build, defaults

settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")

CPU = torch.device("cpu")

# a shell that starts the tests in the background, or nohup, has them ignore these, and so would all that they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


collect_ignore_glob = ["benchmarks/tricks/*"]
"""A trick that is looked through for doctests would be one of the gallery from then on."""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_tricks_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tricks that a test takes from a folder of its own are gone after it."""
    registry.discover()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_DISCOVERED", set(registry._DISCOVERED))


@pytest.fixture(autouse=True)
def no_store_of_the_environment() -> Iterator[None]:
    """Neither the developer's nor one that `mlflow.set_tracking_uri` has left there; no width of a terminal either."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.pop("COLUMNS", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def digits() -> LongTailed:
    """The digits with 40 images in the largest class and 2 in the smallest: an epoch is three steps."""
    whole = load("digits-lt", imbalance=20, split_seed=0)
    counts = class_counts(largest=40, classes=10, imbalance=20)
    few = torch.cat([(whole.train_labels == label).nonzero()[:count, 0] for label, count in enumerate(counts)])
    some = torch.cat([(whole.val_labels == label).nonzero()[:6, 0] for label in range(10)])
    return LongTailed(
        **{name: getattr(whole, name) for name in whole.__dataclass_fields__ if name != "fingerprint"}
        | {"train_images": whole.train_images[few], "train_labels": whole.train_labels[few]}
        | {"val_images": whole.val_images[some], "val_labels": whole.val_labels[some]}
    )


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """make_plan(Stage(…), …, on=[labels]): the plan of these stages, with the digits' standard numbers."""

    def made(*stages: Stage, on: tuple[str, ...] = (), **more: object) -> Plan:
        short = replace(standard("digits-lt"), epochs=30, final_epochs=30, eval_every=3)
        return build(Space(stages=list(stages), **more), defaults(on), short).plan

    return made


@pytest.fixture(scope="session")
def pipeline(digits: LongTailed) -> Callable[..., Pipeline]:
    """pipeline(plan, seed=0, store=None, …): ready to advance."""

    def made(plan: Plan, seed: int = 0, data: LongTailed = digits, **more: object) -> Pipeline:
        return Pipeline(plan, data, "resnet8", seed, CPU, **more)

    return made


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, to be copied: making one takes seconds."""
    from search.mlflow_tracker import prepare

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty MLflow store where commands look for one, in a working directory of the test's own."""
    from search.mlflow_tracker import default_uri

    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return default_uri()


@pytest.fixture(scope="session")
def hostile() -> SimpleNamespace:
    """Names that act where they are not escaped, and the records of a search that has them: `hostile.py`."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))


@pytest.fixture
def tricks_folder(tmp_path: Path) -> Path:
    """A folder for `--tricks`."""
    folder = tmp_path / "tricks"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def quiet_libraries() -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
