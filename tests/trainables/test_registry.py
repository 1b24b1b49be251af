"""Finding and making tricks, those of a user's folder included."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from spaces.domain import SpaceError, Stage, one_of, trick
from trainables import registry
from trainables.batch import Facts
from trainables.registry import (
    SEAMS,
    PlanError,
    discover,
    entries,
    entry,
    make,
    name_of,
    names,
    numbers_of,
    seam_of,
    source_file,
)

pytestmark = pytest.mark.smoke

TRICK = '''
from dataclasses import dataclass

import torch

from spaces.domain import uniform
from trainables.registry import in_range, trick


@trick(seam="weight", family="toys", source="nobody", space={"factor": uniform(1, 4)})
@dataclass(frozen=True)
class CLS:
    """Multiplies every image's loss."""

    factor: float = 2.0

    def __post_init__(self):
        in_range(self, "factor", 0, above=True)

    def build(self, facts):
        return lambda labels: torch.full(labels.shape, self.factor, dtype=torch.float64)
'''


@pytest.fixture(autouse=True)
def forget():
    """What a test registers, no other test sees."""
    discover()
    known, found = dict(registry._ENTRIES), set(registry._DISCOVERED)
    yield
    registry._ENTRIES.clear()
    registry._ENTRIES.update(known)
    registry._DISCOVERED.clear()
    registry._DISCOVERED.update(found)


def write(folder: Path, name: str, text: str = TRICK, cls: str = "Toy") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(text.replace("CLS", cls))
    return file


# --- the gallery ------------------------------------------------------------------------------------------


def test_every_file_is_a_trick_of_its_name():
    files = Path(registry.__file__).with_name("tricks").glob("*.py")
    assert names() == sorted(file.stem for file in files if file.stem != "__init__")
    assert all(source_file(known.cls).stem == name for name, known in entries().items())


def test_names_by_seam_and_family():
    assert "cost_sensitive" in names(seam="weight")
    assert sorted(name for seam in SEAMS for name in names(seam=seam)) == names()
    assert "class_balanced" in names(family="re-sampling")
    assert names(seam="draw", family="re-weighting") == []
    with pytest.raises(ValueError, match=r"names\(seam='weigth'\): did you mean 'weight'\?"):
        names(seam="weigth")


def test_make_fills_in_the_defaults():
    made = make("effective_number", beta=0.99)
    assert made == make("effective_number", **numbers_of(made))
    assert numbers_of(made)["beta"] == 0.99
    assert (name_of(made), seam_of(made)) == ("effective_number", "weight")
    assert entry("effective_number").numbers.keys() == numbers_of(made).keys()


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("clas_balanced", {}, r"^unknown trick 'clas_balanced': did you mean 'class_balanced'\?$"),
        ("zzz", {}, r"^unknown trick 'zzz': known are adapt_former, .*weighted_partner$"),
        ("focal", {"gama": 1}, r"^trick 'focal' has no number 'gama': did you mean 'gamma'\? \(it has gamma"),
        ("class_balanced", {"q": 1}, r"has no number 'q': known are none \(it has none\)$"),
        ("effective_number", {"beta": 1.5}, r"^trick 'effective_number': beta must be a number in \[0, 1\), got 1.5$"),
        ("effective_number", {"beta": float("nan")}, r"got nan$"),
        ("effective_number", {"beta": "0.9"}, r"got '0.9'$"),
        ("effective_number", {"beta": True}, r"got True$"),
        ("few_shot", {"n_c": 2.5}, r"^trick 'few_shot': n_c must be a whole number in \[1, inf\), got 2.5$"),
        ("few_shot", {"n_c": 0}, r"got 0$"),
        ("classifier", {"batchnorm": "free"}, r"batchnorm must be one of 'fixed', 'moving', got 'free'$"),
    ],
)
def test_what_cannot_be_made(name, numbers, message):
    with pytest.raises(PlanError, match=message):
        make(name, **numbers)


# --- a user's folder --------------------------------------------------------------------------------------


def test_one_file_in_a_folder_is_a_trick_everywhere(tricks_folder, make_plan, pipeline):
    write(tricks_folder, "toy_weight")
    (tricks_folder / "_helper.py").write_text("raise RuntimeError('not a trick')")
    discover(tricks_folder)
    discover(tricks_folder, str(tricks_folder))
    assert "toy_weight" in names(seam="weight", family="toys")
    facts = Facts(counts=torch.tensor([2, 1]), labels=torch.tensor([0, 0, 1]))
    assert make("toy_weight", factor=3).build(facts)(torch.tensor([0, 1])).tolist() == [3, 3]
    with pytest.raises(PlanError, match=r"trick 'toy_weight': factor must be a number in \(0, inf\), got -1"):
        make("toy_weight", factor=-1)

    chosen = one_of(None, trick("toy_weight", factor=one_of(2.0, 3.0)))
    plan = make_plan(Stage("a", epochs=1, choose=[chosen]), on=("a/toy_weight",))
    assert plan.stages[0].on("weight")[0].numbers == {"factor": 2.0}
    run = pipeline(plan)
    run.run()
    # divided by its own expectation, a constant weight changes nothing but the last digits
    plain = pipeline(make_plan(Stage("a", epochs=1)))
    plain.run()
    assert run.points[0].metrics["train_loss"] == pytest.approx(plain.points[0].metrics["train_loss"], rel=1e-4)


def test_a_name_of_the_gallery_is_taken(tricks_folder):
    write(tricks_folder, "focal", cls="Mine")
    with pytest.raises(PlanError, match=r"'focal' is defined twice: Focal in .*focal\.py and Mine in .*rename one"):
        discover(tricks_folder)
    assert make("focal") is not None
    assert source_file(entry("focal").cls).parent.name == "tricks"


def test_one_name_in_two_folders_is_taken_too(tmp_path):
    first, second = write(tmp_path / "one", "toy"), write(tmp_path / "two", "toy")
    discover(first.parent)
    with pytest.raises(PlanError, match=rf"'toy' is defined twice: Toy in {first} and Toy in {second}"):
        discover(second.parent)
    assert source_file(entry("toy").cls) == first


def test_two_tricks_in_one_file(tricks_folder):
    write(tricks_folder, "toy", text=TRICK + TRICK.replace("CLS", "Two"), cls="One")
    with pytest.raises(PlanError, match=r"'toy' is defined twice: One in .*toy\.py and Two in"):
        discover(tricks_folder)


def test_folders_and_files_that_cannot_be_read(tmp_path, tricks_folder):
    with pytest.raises(PlanError, match=r"--tricks .*nowhere: no such folder"):
        discover(tmp_path / "nowhere")
    file = write(tricks_folder, "broken", text="def f(:\n")
    for _ in range(2):  # a second call must not find everything in order
        with pytest.raises(PlanError, match=rf"--tricks: {file} cannot be imported: SyntaxError"):
            discover(tricks_folder)
    file.write_text(TRICK.replace("CLS", "Toy"))
    discover(tricks_folder)
    assert "broken" in names()


# --- the decorator ----------------------------------------------------------------------------------------


def register(cls: type, **more: object) -> None:
    registry.trick(**({"seam": "weight", "family": "f", "source": "s"} | more))(cls)


def test_what_is_no_trick():
    @dataclasses.dataclass
    class Thawed:
        number: float = 1.0

    @dataclasses.dataclass(frozen=True)
    class Needy:
        number: float

    @dataclasses.dataclass(frozen=True)
    class Fine:
        number: float = 1.0

    with pytest.raises(ValueError, match=r"@trick\(seam='los'\): did you mean 'loss'\?; the seams are draw, partner"):
        register(Fine, seam="los")
    with pytest.raises(TypeError, match=r"Thawed must be a @dataclass\(frozen=True\) below @trick"):
        register(Thawed)
    with pytest.raises(TypeError, match=r"number needs a default"):
        register(Needy)
    with pytest.raises(TypeError, match=r"space\['other'\] must be a range for one of number"):
        register(Fine, space={"other": one_of(1, 2)})
    with pytest.raises(TypeError, match=r"space\['number'\] must be a range"):
        register(Fine, space={"number": 3})
    with pytest.raises(SpaceError):
        register(Fine, space={"number": one_of()})


def test_the_page_shows_where_every_seam_acts():
    loop = registry.__doc__.partition("Where each seam acts")[2]
    assert set(re.findall(r"\b[A-Z_]{3,}\b", loop)) == {name.upper() for name in SEAMS}
