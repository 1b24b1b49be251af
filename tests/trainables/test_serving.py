"""What MLflow serves, asked over the process of `mlflow models serve`, without this project on its path."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from search.commands.export import FORMAT
from spaces.domain import Stage
from trainables.data import load
from trainables.data.images.decoding import Preprocessing
from trainables.final.predictor import Predictor
from trainables.train import main

pytestmark = pytest.mark.timeout(280)

SIDE = 12


def turned(image: Image.Image, orientation: int, file: Path) -> None:
    """Saves it so that a viewer turns it by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(file, exif=exif)


def photos(folder: Path) -> None:
    """Three classes of images that tell on every step: sizes, orientation, transparency, grey, CMYK and palettes."""
    drawn = np.random.RandomState(0)
    for label, (name, count) in enumerate({"=ant|*bold*": 24, "bee": 15, "cat": 9}.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            high, wide = drawn.randint(14, 30, 2)
            pixels = drawn.randint(0, 120, (high, wide, 3)).astype(np.uint8)
            pixels[: high // (label + 1), :, label] += 130  # bright above, by class
            image, file = Image.fromarray(pixels), folder / name / f"{number}.png"
            if number % 6 == 1:
                turned(image, (3, 6, 8)[number % 3], file.with_suffix(".jpg"))
            elif number % 6 == 2:
                image.putalpha(Image.fromarray(drawn.randint(0, 256, (high, wide)).astype(np.uint8)))
                image.save(file)
            elif number % 6 == 3:
                image.convert("L").save(file)
            elif number % 6 == 4:
                image.convert("P").save(file)
            elif number % 6 == 5:
                image.convert("CMYK").save(file.with_suffix(".jpg"))
            else:
                image.save(file)


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_plan) -> Path:
    """A folder with `photos/` and what final training left of them in `trained/`."""
    place = tmp_path_factory.mktemp("served")
    photos(place / "photos")
    recipe = {
        "format": FORMAT, "recipe": "0123456789", "title": "a/b|c", "model": "resnet8", "conflicts": [],
        "data": {"name": f"folder:photos?size={SIDE}&test=3", "imbalance": None},
        "plan": make_plan(Stage("a", epochs=60)).to_dict(), "measured": {"values": [0.2]},
        "provenance": {"search": "s1", "tricks": [], "data_root": "."},
    }  # fmt: skip
    (place / "best.yaml").write_text(yaml.safe_dump(recipe))
    assert main([str(place / "best.yaml"), "--out", str(place / "trained"), "--tracking-uri", "none"]) == 0
    return place


@pytest.fixture(scope="module")
def ask(place):
    """ask(request): what the served process answers, and with which status; started without this project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with (place / "server.txt").open("wb") as said:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", "trained/mlflow-model",
             "--env-manager", "local", "--port", str(port), "--workers", "1"],
            cwd=place, env=kept, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 200
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=2):
            break
        assert time.monotonic() < deadline and server.poll() is None, (place / "server.txt").read_text()
        time.sleep(0.2)

    def asked(request: dict) -> tuple[int, list | str]:
        sent = urllib.request.Request(
            f"{address}/invocations", json.dumps(request).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(sent) as answer:
                return answer.status, json.loads(answer.read())["predictions"]
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["message"]

    yield asked
    os.killpg(server.pid, 15)
    server.wait(30)


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def test_files_are_answered_as_the_program_itself_answers_them(place, ask):
    """Whole files, as base64 and as paths: the same classes as from the pixels that training was given."""
    data = load(f"folder:photos?size={SIDE}&test=3", root=str(place), split_seed=5000, fold_val=True)
    program = torch.export.load(place / "trained" / "model.pt2").module()
    pixels = torch.cat([data.train_images, data.test_images])
    own = program(pixels).argmax(dim=1).tolist()
    assert len(set(own)) > 1
    files = sorted((place / "photos").rglob("*.*"), key=lambda file: (file.parent.name, str(file)))
    by_base64 = ask({"dataframe_records": [{"image": encoded(file)} for file in files]})
    by_path = ask({"dataframe_split": {"columns": ["image"], "data": [[str(file)] for file in files]}})
    assert by_base64[0] == by_path[0] == 200 and by_base64 == by_path
    # training divides the files: its pixels tell which is which
    decode = Preprocessing(3, SIDE).decode
    known = {bytes(image.numpy().tobytes()): label for image, label in zip(pixels, own, strict=True)}
    assert [one["label"] for one in by_path[1]] == [known[decode(file).tobytes()] for file in files]
    for one in by_path[1]:
        assert one["class"] == ["=ant|*bold*", "bee", "cat"][one["label"]]
        assert one["probabilities"][one["class"]] == one["probability"] == max(one["probabilities"].values())
        assert sum(one["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("images", [0, 1, 2, 130])
def test_any_number_of_images(images, place, ask):
    file = next((place / "photos" / "bee").iterdir())
    status, answers = ask({"dataframe_split": {"columns": ["image"], "data": [[str(file)]] * images}})
    assert status == 200 and len(answers) == images
    assert len({one["class"] for one in answers}) == min(images, 1)


def test_pixels_are_taken_as_numbers_and_texts_in_every_form_of_mlflow(place, ask):
    pixels = np.random.RandomState(1).randint(0, 256, (2, 3, SIDE, SIDE))
    file = io.BytesIO()
    Image.fromarray(pixels[0].transpose(1, 2, 0).astype(np.uint8)).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    found = ask({"instances": pixels.tolist()})
    assert found[0] == 200 and found == ask({"inputs": pixels.tolist()}) == ask({"inputs": {"image": pixels.tolist()}})
    for request in (
        {"dataframe_records": [{"image": pixels[0].tolist()}, {"image": pixels[1].tolist()}]},
        {"instances": [{"image": pixels[0].tolist()}, {"image": pixels[1].tolist()}]},
    ):
        assert ask(request) == found
    for request in (
        {"instances": [text]}, {"inputs": [text, text]}, {"instances": [{"image": text}]},
        {"dataframe_records": [{"image": f"data:image/png;base64,{text}"}]},
    ):  # fmt: skip
        status, answers = ask(request)
        assert status == 200 and {one["class"] for one in answers} == {found[1][0]["class"]}


PIXELS = np.full((1, 3, SIDE, SIDE), 7)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (
            {"instances": (PIXELS / 255).tolist()},
            "whole numbers from 0 to 255 (uint8), got floating-point numbers from",
        ),
        ({"instances": (PIXELS * 0.0).tolist()}, "got floating-point numbers from 0 to 0; of an image in [0, 1], send"),
        ({"dataframe_records": [{"image": (PIXELS[0] / 255).tolist()}]}, "image 0 (counted from 0): pixels must be"),
        ({"instances": (PIXELS == 7).tolist()}, "pixels must be whole numbers from 0 to 255 (uint8), got bool"),
        ({"instances": (PIXELS + 249).tolist()}, "pixels must be whole numbers from 0 to 255, got 256 to 256"),
        ({"instances": (PIXELS - 8).tolist()}, "got -1 to -1"),
        (
            {"instances": PIXELS[:, :1].tolist()},
            "must be of shape (3, 12, 12) (channels, height, width), got (1, 12, 12)",
        ),
        ({"instances": PIXELS[0].tolist()}, "got (12, 12)"),
        ({"instances": [[[[1], [1, 2]]]]}, "the numbers are no array"),
        ({"instances": [10**400]}, "there is no image, got 1000"),
        ({"dataframe_records": [{"image": None}]}, "image 0 (counted from 0): there is no image, got None"),
        (
            {"dataframe_records": [{"image": "nowhere.png"}]},
            "'nowhere.png' is neither a file on this machine nor an image",
        ),
        ({"dataframe_records": [{"image": base64.b64encode(b"some text, no image").decode()}]}, "the file is no image"),
        ({"dataframe_records": [{"picture": "x"}]}, "Model is missing inputs ['image']"),
    ],
)
def test_everything_else_is_refused_with_a_sentence(request_, sentence, ask):
    status, message = ask(request_)
    assert status == 400 and sentence in message


def test_the_card_states_every_step_before_the_network_and_no_name_is_markup(place):
    card = (place / "trained" / "README.md").read_text()
    for step in (
        "2. Transparent pixels are laid on white. Grey is repeated in three channels (RGB).",
        "3. The EXIF orientation is applied.",
        f"4. The shorter side is resized to {SIDE} pixels (bilinear, smoothed where it shrinks; Pillow), and the "
        f"centre of {SIDE}×{SIDE} is cut out.",
        "5. Pixels divided by 255, minus mean (",
    ):  # fmt: skip
        assert step in card
    assert r"| =ant\|\*bold\* | 21 |" in card and r"of the search s1: a/b\|c." in card
    table = (place / "trained" / "per_class.csv").read_text()
    assert "\n1,bee,12," in table and "\n0,'=ant|*bold*,21," in table


@pytest.mark.slow
def test_the_command_line_of_the_card_answers_too(place):
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mlflow")), "models", "predict", "-m", "mlflow-model", "-t", "json",
         "--env-manager", "local", "-i", "mlflow-model/serving_input_example.json"],
        capture_output=True, text=True, timeout=200, check=True, cwd=place / "trained",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    (answer,) = json.loads(line)["predictions"]
    assert answer["class"] in ("=ant|*bold*", "bee", "cat")


def test_in_python_a_table_of_bytes_paths_or_arrays(place):
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(place / "trained" / "mlflow-model"))
    file = next((place / "photos" / "cat").iterdir())
    rows = [file.read_bytes(), str(file), encoded(file), Preprocessing(3, SIDE).decode(file)]
    answers = model.predict(pd.DataFrame({"image": rows}))
    assert answers["class"].nunique() == 1 and answers["probability"].nunique() == 1
    pixels = np.stack([rows[-1]] * 3)
    assert model.predict({"image": pixels})["class"].tolist() == [answers["class"][0]] * 3
    with pytest.raises(Exception, match="got floating-point numbers from"):
        model.predict({"image": pixels / np.float32(255)})


def test_images_without_a_size_option_must_have_the_size_of_the_data(tmp_path):
    predictor = Predictor(lambda images: torch.ones(len(images), 2) / 2, Preprocessing(1), (1, 8, 8), ["a", "b"])
    Image.new("L", (8, 9)).save(tmp_path / "high.png")
    with pytest.raises(Exception, match=r"has 8×9 pixels, and this model takes images of 8×8, as those that it was"):
        predictor.predict([tmp_path / "high.png"])
    assert predictor.predict([])["class"].tolist() == []
