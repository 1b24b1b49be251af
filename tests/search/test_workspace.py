"""The folder of a search: made whole or not at all, and refused when what it stands on has changed.

Everything up to the first trial is the real thing; nothing is trained.
"""

import dataclasses
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from search.__main__ import parser
from search.context import SearchContext
from search.execution import session
from search.request import Request, make_request
from search.settings import Settings, SettingsError
from search.workspace import folder as workspace
from search.workspace.folder import Workspace, successor_of
from search.workspace.identity import Identity, block_changes, changes_in
from spaces.domain import SpaceError
from trainables import registry
from trainables.trial_spec import forget_data

SPACE = """
from spaces.domain import Space, Stage, one_of
SPACE = Space(
    stages=[Stage("only", epochs=1, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")])],
    screen=["only/cost_sensitive", "only/class_balanced"],
)
"""

TRICK = """
from dataclasses import dataclass
import torch
from trainables.registry import trick
from helper_of_own_weights import FACTOR

@trick(seam="weight", family="toys", source="nobody")
@dataclass(frozen=True)
class Own:
    def build(self, facts):
        return lambda labels: torch.ones(labels.shape, dtype=torch.float64) * FACTOR
"""

NETWORK = """
from torch import nn
from width_of_own_net import WIDTH
def net(num_classes, depth=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_classes))
"""

SIZES = {"ant": 20, "bee": 10, "cat": 10}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A project: a space, and pictures in a folder for each class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.py").write_text(SPACE)
    for number, (name, count) in enumerate(SIZES.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            picture(tmp_path / "photos" / name / f"{index:02}.png", 100 * number + index)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def picture(file: Path, seed: int) -> None:
    Image.fromarray(np.random.RandomState(seed).randint(0, 255, (8, 8, 3)).astype(np.uint8)).save(file)


@dataclass
class Made:
    """A search of a command line, as it is before it makes or opens its folder."""

    request: Request
    context: SearchContext
    workspace: Workspace

    def open(self) -> list[str]:
        return session.open_workspace(self.request, self.context, self.workspace, Console())


def made(*arguments: str) -> Made:
    options = parser().parse_args([*arguments, *([] if "--resume" in arguments else ["--name", "mine"])])
    forget_data()
    request = make_request(vars(options))
    context = SearchContext.make(request.space, request.settings)
    workspace = Workspace(context.settings, request.file)
    deployment = workspace.deployment(context, request.resume)
    return Made(request, dataclasses.replace(context, deployment=deployment), workspace)


def begin(*arguments: str) -> Path:
    search = made("--space", "space.py", "--data", "folder:photos", *arguments)
    assert search.open() == []
    assert made("--resume", "mine").open() == []
    return search.workspace.folder


def refused(*arguments: str) -> str:
    """What has changed; that accepting it is offered, and works."""
    with pytest.raises(SettingsError) as caught:
        made("--resume", "mine", *arguments).open()
    what, _, remedy = str(caught.value).removeprefix("--resume mine: ").partition(", and results from before and after")
    assert remedy == (
        " must not be compared; undo that, or give --accept-changes as well, which starts mine-2 with the same "
        "settings on fresh seed blocks and leaves mine as it is"
    )
    assert "; ".join(made("--resume", "mine", "--accept-changes", *arguments).open()) == what
    return what


# ------------------------------------------------------------------------------------------ data


def test_data_that_change_are_named_by_class(place):
    begin()
    ant = place / "photos" / "ant"
    for index in range(3):
        (ant / f"{index:02}.png").unlink()
    assert refused() == "the data have changed: ant has 17 images instead of 20 (-3)"
    for index in range(30, 35):
        picture(place / "photos" / "bee" / f"{index}.png", index)
    assert refused() == (
        "the data have changed: ant has 17 images instead of 20 (-3), bee has 15 images instead of 10 (+5)"
    )
    (place / "photos" / "cat").rename(place / "photos" / "dog")
    assert refused().endswith("class cat with its 10 images is gone, class dog with its 10 images is new")


def test_data_that_come_back_are_the_same(place):
    begin()
    shutil.move("photos/ant/00.png", "00.png")
    assert "ant has 19 images instead of 20 (-1)" in refused()
    shutil.move("00.png", "photos/ant/00.png")
    assert made("--resume", "mine").open() == []


def test_exchanged_labels_of_equal_counts_are_seen(place):
    begin()
    for one, other in (("bee/00.png", "cat/07.png"), ("bee/05.png", "cat/02.png")):
        shutil.move(f"photos/{one}", "aside.png")
        shutil.move(f"photos/{other}", f"photos/{one}")
        shutil.move("aside.png", f"photos/{other}")
    assert refused() == (
        "the data have changed: bee has other images or labels than before (10, as before), cat has other images or "
        "labels than before (10, as before)"
    )


def test_one_pixel_and_one_name_are_seen(place):
    begin()
    shutil.move("photos/cat/00.png", "photos/cat/99.png")  # drawn in another order
    assert "files were replaced, touched or renamed, or are divided otherwise" in refused()
    shutil.move("photos/cat/99.png", "photos/cat/00.png")
    pixels = np.array(Image.open("photos/cat/00.png"))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save("photos/cat/00.png")
    assert refused() == "the data have changed: cat has other images or labels than before (10, as before)"


def test_a_list_of_files_and_arrays_are_compared_as_well(place):
    images = np.random.RandomState(0).randint(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(40) % 2
    np.savez(place / "own.npz", x=images, y=labels)
    made("--space", "space.py", "--data", "npz:own.npz").open()
    labels[[0, 1]] = labels[[1, 0]]
    np.savez(place / "own.npz", x=images, y=labels)
    assert "0 has other images or labels than before (20, as before), 1 has other" in refused()
    shutil.rmtree("results")
    rows = [f"photos/{name}/{index:02}.png,{name}" for name in SIZES for index in range(10)]
    (place / "list.csv").write_text("path,label\n" + "\n".join(rows))
    made("--space", "space.py", "--data", "csv:list.csv").open()
    (place / "list.csv").write_text("path,label\n" + "\n".join(rows[:-1]))
    assert refused() == "the data have changed: cat has 9 images instead of 10 (-1)"


def test_data_that_are_streamed_are_compared_too(place):
    begin("--feed", "streamed")
    (place / "photos" / "ant" / "00.png").unlink()
    assert "ant has 19 images instead of 20 (-1)" in refused()


def test_images_that_the_first_block_does_not_draw_are_seen_by_the_blocks_that_do(place):
    """Where a longer tail is cut, a block has a part of the images."""
    search = made("--space", "space.py", "--data", "folder:photos", "--imbalance", "4")
    marks = {seed: {search.context.splits.fingerprint(seed)} for seed in range(4)}
    assert block_changes(marks, search.context.splits.fingerprint) == []
    first = {image.numpy().tobytes() for image in search.context.splits.load(0).train_images}
    for file in sorted((place / "photos" / "cat").iterdir()):
        pixels = np.array(Image.open(file))
        if pixels.transpose(2, 0, 1).tobytes() in first:
            continue
        Image.fromarray(255 - pixels).save(file)
    again = made("--space", "space.py", "--data", "folder:photos", "--imbalance", "4")
    said = block_changes(marks, again.context.splits.fingerprint)
    assert len(said) == 1 and said[0].startswith("the data have changed: other images or labels in seed blocks ")
    # a mixture that is there already
    assert block_changes({0: {"a", "b"}}, lambda seed: "a") == [
        "the data have changed: other images or labels in seed blocks 0"
    ]


# ------------------------------------------------------------------------------------------ the space


READS = """
import json, pathlib
from options_beside import MORE
from spaces.domain import Space, Stage, one_of
HERE = pathlib.Path(__file__).parent
TRICKS = json.loads((HERE / "parts" / "tricks.json").read_text())
SPACE = Space(stages=[Stage("only", epochs=1, choose=[one_of(None, *TRICKS), one_of(None, *MORE)])])
"""


@pytest.fixture
def reading(place) -> Path:
    """A space that reads a file and imports a module beside it, which imports another."""
    (place / "space.py").write_text(READS)
    (place / "parts").mkdir()
    (place / "parts" / "tricks.json").write_text('["cost_sensitive"]')
    (place / "options_beside.py").write_text("from further_beside import MORE\n")
    (place / "further_beside.py").write_text('MORE = ["class_balanced"]\n')
    return place


def test_a_space_that_reads_and_imports_beside_it_is_resumed_without_any_of_it(reading):
    folder = begin("--trials", "3")
    copies = {str(path.relative_to(folder / "space")) for path in (folder / "space").rglob("*") if path.is_file()}
    assert copies == {"space.py", "parts/tricks.json", "options_beside.py", "further_beside.py"}
    assert "options_beside" not in sys.modules and "further_beside" not in sys.modules
    assert made("--resume", "mine", "--space", "space.py").open() == []
    # the copies are a space of their own
    assert (
        made("--space", f"{folder}/space/space.py", "--data", "folder:photos").request.space
        == made("--resume", "mine").request.space
    )
    for name in ("space.py", "options_beside.py", "further_beside.py", "parts/tricks.json"):
        (reading / name).unlink()
    assert made("--resume", "mine").open() == []
    shutil.rmtree(folder / "space")
    assert made("--resume", "mine").open() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("parts/tricks.json", '["cost_sensitive", "effective_number"]'),
        ("further_beside.py", 'MORE = ["square_root"]'),
        ("options_beside.py", "MORE = ['square_root']"),
    ],
)
def test_a_change_beside_the_space_is_named(reading, name, text):
    begin()
    (reading / name).write_text(text)
    assert made("--resume", "mine").open() == []  # goes on with its own copy
    said = refused("--space", "space.py")
    # without further_beside, which another options_beside does not import
    named = "space/further_beside.py, " * (name == "options_beside.py") + f"space/{name}"
    assert said == f"the space has changed ({named}): stage only"


def test_a_kept_space_that_is_edited_is_seen(place):
    folder = begin()
    (folder / "space.py").write_text("# a comment\n" + SPACE)
    assert made("--resume", "mine").open() == []
    (folder / "space.py").write_text(SPACE.replace("class_balanced", "square_root"))
    assert refused() == "the space has changed (space.py): stage only, screen="
    (folder / "space.py").write_text("SPACE = (")
    with pytest.raises(SpaceError, match=r"results/mine/space.py, line 1: not Python"):
        made("--resume", "mine")
    (folder / "space.py").unlink()
    assert made("--resume", "mine").open() == []


def test_a_kept_copy_beside_the_space_that_is_edited_is_seen(reading):
    folder = begin()
    (folder / "space" / "parts" / "tricks.json").write_text('["effective_number"]')
    assert refused() == "the space has changed (space/parts/tricks.json): stage only"


def test_a_space_that_is_another_each_time_is_refused(place):
    (place / "space.py").write_text(SPACE.replace("epochs=1", "epochs=__import__('random').randint(1, 10**6)"))
    with pytest.raises(SpaceError, match=r"space.py: gives another space each time it is read"):
        made("--space", "space.py").open()
    assert not (place / "results" / "mine").exists() and not list((place / "results").iterdir())


def test_what_a_space_reads_that_is_large_is_not_copied(reading, monkeypatch):
    monkeypatch.setattr(workspace, "LARGEST_COPY", 20)
    folder = begin()
    assert not (folder / "space" / "options_beside.py").exists()
    assert made("--resume", "mine", "--space", "space.py").open() == []


# ------------------------------------------------------------------------------------------ code and versions


def test_the_code_of_own_tricks_is_compared(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    (place / "more").mkdir()
    (place / "helper_of_own_weights.py").write_text("FACTOR = 1.0\n")
    (place / "more" / "own_weights.py").write_text(TRICK)
    (place / "more" / "unused.py").write_text("X = 1\n")
    (place / "space.py").write_text(SPACE.replace("cost_sensitive", "own_weights"))
    begin("--tricks", "more")
    (place / "more" / "own_weights.py").write_text("# words\n" + TRICK)
    (place / "more" / "unused.py").write_text("X = 2\n")
    assert made("--resume", "mine").open() == []
    (place / "more" / "own_weights.py").write_text(TRICK + "\nEXTRA = 1\n")
    assert refused() == "own_weights.py of the trick own_weights has changed"
    (place / "more" / "own_weights.py").write_text(TRICK)
    (place / "helper_of_own_weights.py").write_text("FACTOR = 20.0\n")
    assert refused() == "helper_of_own_weights.py of the trick own_weights has changed"
    (place / "helper_of_own_weights.py").write_text("FACTOR = 1.0\n")
    shutil.copytree("more", "elsewhere")
    registry._ENTRIES.pop("own_weights")  # as in another process
    assert made("--resume", "mine", "--tricks", "elsewhere").open() == []


def test_the_code_and_the_weights_of_a_network_are_compared(place, monkeypatch):
    monkeypatch.syspath_prepend(place)
    (place / "width_of_own_net.py").write_text("WIDTH = 8\n")
    (place / "own_net_of_a_test.py").write_text(NETWORK)
    begin("--model", "own_net_of_a_test.py:net?depth=1")
    assert made("--resume", "mine", "--model", "./own_net_of_a_test.py:net?depth=1").open() == []
    (place / "width_of_own_net.py").write_text("WIDTH = 16\n")
    assert refused() == "width_of_own_net.py of the network has changed"
    with pytest.raises(SettingsError, match="--model cannot change"):
        made("--resume", "mine", "--model", "own_net_of_a_test.py:net?depth=2")
    shutil.rmtree("results")
    (place / "weights.pth").write_bytes(b"one")
    begin("--model", "resnet8?pretrained=weights.pth")
    (place / "weights.pth").write_bytes(b"two!")
    assert refused() == "the file of pretrained weights has changed"


def edit(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_other_versions_are_named(place):
    folder = begin()
    edit(folder, "identity.json", lambda content: content["versions"].update(torch="1.0", torchvision="0.1"))
    assert refused().startswith("torch was 1.0, is 2.")
    edit(
        folder,
        "identity.json",
        lambda content: content["versions"].update({"the code of longtail-tune's training": "x"}),
    )
    assert "the code of longtail-tune's training has changed" in refused()


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", 1), ("epochs_scale", 0.5), ("race", False), ("rungs", [0.5]), ("objective", "harmonic_mean"),
     ("children_per_start", 3), ("imbalance", 2.0), ("design", "factorial"), ("precision", "bf16"),
     ("model", "resnet20"),
     ("primary", ["only/class_balanced×only/cost_sensitive"]), ("rung_score", "accuracy"), ("tune_baseline", True)],
)  # fmt: skip
def test_settings_that_were_changed_by_hand_are_seen(place, field, value):
    folder = begin("--model", "resnet8")
    before = json.loads((folder / "search.json").read_text())[field]
    edit(folder, "search.json", lambda content: content.update({field: value}))
    assert f"{field} of search.json was {before!r}, is {value!r}" in refused()


def test_the_lag_is_known_when_the_machine_is_and_stays(place):
    folder = begin()
    assert json.loads((folder / "identity.json").read_text())["settings"]["lag"] == 0
    edit(folder, "search.json", lambda content: content.update(lag=6))  # killed before the next line
    assert made("--resume", "mine").open() == []
    made("--resume", "mine").workspace.keep(lag=6)
    assert made("--resume", "mine").open() == []
    edit(folder, "search.json", lambda content: content.update(lag=7))
    assert refused() == "lag of search.json was 6, is 7"


def test_an_edited_weighing_is_seen(place):
    (place / "prior.csv").write_text("ant,1\nbee,2\ncat,3\n")
    folder = begin("--prior", "prior.csv")
    edit(folder, "deployment.json", lambda content: content["prior"].reverse())
    assert "deployment.json was {'prior': [1.0, 2.0, 3.0]" in refused()
    for content in ("", "{", "[1]", "{}", '{"prior": 3}', '"x"'):
        (folder / "deployment.json").write_text(content)
        with pytest.raises(SettingsError, match=r"--resume mine: .*deployment.json (is damaged|was)"):
            made("--resume", "mine").open()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"space": 1}', b"\xff\xfe", "null", "[" * 10**5,
     '{"space": {"is": "Space", "stages": []}, "settings": {}, "files": {}, "data": {}, "code": {}, "versions": {}}'],
)  # fmt: skip
def test_a_damaged_identity_is_one_sentence(place, content):
    folder = begin()
    (folder / "identity.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=r"^--resume mine: results/mine/identity.json is damaged .*; undo what "):
        made("--resume", "mine").open()


def test_every_odd_value_in_an_identity_is_one_sentence(place):
    folder = begin()
    whole = json.loads((folder / "identity.json").read_text())
    for part in whole:
        for odd in (None, 3, "x", [], [1], {"a": 1}):
            (folder / "identity.json").write_text(json.dumps(whole | {part: odd}))
            with pytest.raises((SettingsError, SpaceError)) as caught:
                made("--resume", "mine").open()
                raise SettingsError("nothing of it was an identity's")  # an empty part says what is not there
            assert len(str(caught.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------ the folder


def test_a_search_of_an_earlier_version_goes_on_and_is_compared_from_then_on(place, capsys):
    folder = begin()
    (folder / "identity.json").unlink()
    assert made("--resume", "mine").open() == []
    assert "results/mine was made by an earlier version" in capsys.readouterr().out
    assert Identity.read(folder) is not None
    (place / "photos" / "ant" / "00.png").unlink()
    assert refused() == "the data have changed: ant has 19 images instead of 20 (-1)"
    (folder / "space.py").write_text(SPACE.replace("class_balanced", "square_root"))
    assert "the space has changed (space.py)" in refused()


def test_a_folder_is_there_whole_or_not_at_all(place, monkeypatch):
    search = made("--space", "space.py", "--data", "folder:photos")
    monkeypatch.setattr(Settings, "save", lambda self, folder=None: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        search.open()
    assert list((place / "results").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.chdir(place)
    # of a process on another machine an hour ago; what is not ours stays
    old, other = place / "results" / ".mine.elsewhere.7.0123abcd", place / "results" / ".gitignore"
    old.mkdir(parents=True)
    other.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    begin()
    assert {path.name for path in (place / "results").iterdir()} == {"mine", ".gitignore"}
    with pytest.raises(SettingsError, match="--name mine: results/mine exists; choose another name, or --resume mine"):
        search.open()


def test_the_search_that_takes_the_place_of_another(tmp_path):
    settings = Settings(
        name="mine-10", space="s", data="digits-lt", output=str(tmp_path), seed=4, design="list:a/b.csv"
    )
    second = successor_of(settings, ["the data have changed: cat is gone"])
    assert (second.name, second.seed, second.design) == ("mine-10-2", 5, f"list:{tmp_path}/mine-10/design.csv")
    assert second.continues == "mine-10, whose results stand apart: the data have changed: cat is gone"
    (tmp_path / "mine-10-2").mkdir()
    assert (successor_of(settings, []).name, successor_of(settings, []).seed) == ("mine-10-3", 6)
    assert (successor_of(second, []).name, successor_of(second, []).seed) == ("mine-10-3", 6)


def test_an_export_knows_what_has_changed(place):
    folder = begin()
    assert changes_in(folder) == []
    (place / "photos" / "ant" / "00.png").unlink()
    assert changes_in(folder) == ["the data have changed: ant has 19 images instead of 20 (-1)"]
    shutil.rmtree("photos")
    with pytest.raises(ValueError, match="there is no "):
        changes_in(folder)
