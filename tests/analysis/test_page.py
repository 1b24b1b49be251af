"""The report in a real browser: sorting, copying, saving, switching, and no scrolling sideways on a phone."""

import dataclasses
import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import formatting
from analysis.records import reader
from analysis.records.schema import Point, Record
from analysis.report import html as page
from analysis.report import page as report
from analysis.report.findings import gather

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page's script cannot be run")

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
)  # fmt: skip

DRIVE = """
<script>
addEventListener("load", async () => {
  const found = {};
  try {
    const table = document.querySelector('[aria-label="table: conflicts"] table');
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex(head => head.textContent.startsWith("interaction"));
    const button = heads[column].querySelector("button");
    const values = () => [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value);
    button.focus();
    found.focused = document.activeElement === button;
    button.click();
    found.up = values();
    found.sorted = heads[column].getAttribute("aria-sort");
    button.click();
    found.down = values();
    found.sortedAgain = heads.map(head => head.getAttribute("aria-sort")).filter(Boolean);
    heads[0].querySelector("button").click();
    found.names = [...table.tBodies[0].rows].map(row => row.cells[0].textContent);

    document.execCommand = () => { found.copied = document.activeElement.value; return true; };
    document.querySelector("button.copy[data-source=csv-conflicts]").click();
    const links = found.links = [];
    HTMLAnchorElement.prototype.click = function () { links.push([this.download, this.href.slice(0, 21)]); };
    const make = URL.createObjectURL;
    URL.createObjectURL = blob => { found.bytes = blob.size; return make(blob); };
    document.querySelector("button.save[data-source=csv-conflicts]").click();
    for (const format of ["svg", "png"]) {
      document.querySelector(`button.picture[data-figure=figure-conflicts][data-format=${format}]`).click();
      for (let wait = 0; wait < 200 && links.length < (format === "svg" ? 2 : 3); wait++)
        await new Promise(done => setTimeout(done, 20));
    }
    const shown = () =>
      [...document.querySelectorAll("[data-metric]")].filter(block => !block.hidden).map(block => block.dataset.metric);
    found.first = shown();
    document.querySelector('input[value="final/few"]').click();
    found.second = shown();
    found.drawn = document.getElementById("figure-conflicts-few").clientWidth > 200;
    found.all = [...document.querySelectorAll("button.picture[data-format=svg]")].map(b => b.dataset.figure);
    found.figures = [...document.querySelectorAll(".js-plotly-plot")].map(figure => figure.id);
  } catch (problem) { found.problem = String(problem.stack ?? problem); }
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
</script>
"""

MEASURE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const wide = [...document.querySelectorAll("main *")].filter(
    part => part.getBoundingClientRect().right > innerWidth + 1 && !part.closest(".scroll"));
  parent.postMessage([
    innerWidth, document.documentElement.scrollWidth, wide.slice(0, 3).map(part => part.outerHTML.slice(0, 90)),
    [...document.querySelectorAll(".minute h2")].map(head => head.getBoundingClientRect().top)], "*");
}, 500));
</script>
"""

FIRST_SCREEN = """
<script>
addEventListener("load", () => {
  const columns = [...document.querySelectorAll(".minute > div")].map(column => column.getBoundingClientRect());
  const cards = [...document.querySelectorAll(".minute section")].map(card => card.getBoundingClientRect());
  const last = [...document.querySelectorAll("table tbody td.long summary")].filter(part => part.offsetHeight);
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify({
    tops: columns.map(column => column.top), ends: columns.map((column, index) => Math.max(...cards.filter(
      card => card.left < column.right && card.right > column.left).map(card => card.bottom))),
    cards: cards.length,
    lines: last.map(part => part.clientHeight / parseFloat(getComputedStyle(part).lineHeight)),
  });
  document.body.append(result);
});
</script>
"""

PHONE = """
<iframe src="page.html" style="width: 390px; height: 800px; border: 0"></iframe>
<script>
addEventListener("message", event => {
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(event.data);
  document.body.append(result);
});
</script>
"""

LONG = "representation/a_trick_with_a_name_as_long_as_they_come"
LABELS = (LONG, "representation/class_balanced", "deferred/class_balanced")


def records() -> list[Record]:
    """Three labels in all pairs over three blocks; two of them clash."""
    rows = []
    cells = [(), *itertools.combinations(LABELS, 1), *itertools.combinations(LABELS, 2)]
    for seed, (index, tricks) in itertools.product(range(3), enumerate(cells)):
        accuracy = 0.6 + 0.1 * len(tricks[:1]) - 0.2 * (len(tricks) == 2 and LONG in tricks) + 0.01 * seed
        accuracy += 0.004 * ((seed * 7 + index * 3) % 5)
        first = Record(
            search="demo", trial=f"t{len(rows)}", arm="design", recipe=f"id{index}",
            title=" + ".join(tricks) or "baseline", seed=seed, split_seed=seed,
            first_stage=f"{tricks}{seed}", tricks=tricks, context="", outcome="finished",
            choices={"stages": "representation > deferred"}, plan={}, data="digits-lt", model="resnet8", imbalance=50.0,
            fingerprint="", counts=(100, 2), val_counts=(30, 30), epochs=4.0, epochs_trained=4.0, images=528, steps=8,
            seconds=2.0, seconds_saved=0.0, reused=(), recalls=(accuracy, accuracy / 2),
            metrics={"final/accuracy": accuracy, "final/few": accuracy / 2},
            curve=(Point("representation", 0, 4, 1.0, {"accuracy": accuracy}),), started=float(len(rows)),
        )  # fmt: skip
        rows.append(first)
    stop = {"rung": 0.5, "score": "class_means", "value": 0.61, "cut": 0.7, "among": 7, "cohort": [LONG, "deferred"]}
    rows.append(
        dataclasses.replace(rows[-1], trial="stopped", arm="adaptive", outcome="stopped", stop=stop, started=99.0)
    )
    return rows


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    made = records()
    report.write(path, gather(reader.frame(made), curves=reader.curves(reader.frame(made)), margin=0.02))
    return path.read_text(encoding="utf-8")


def ran(file: Path) -> object:
    """What a page leaves in its element "result"."""
    command = [str(BROWSER), *QUIET, f"--user-data-dir={file.parent / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, "--window-size=1280,900", "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, f"the browser left no result: {done.stderr[-500:]}"
    return json.loads(html.unescape(found.group(1)))


@browser
def test_the_script_sorts_copies_saves_and_switches(text, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", DRIVE + "</body>"), encoding="utf-8")
    found = ran(file)
    assert "problem" not in found, found["problem"]
    up = [float(value) for value in found["up"] if value]
    assert len(up) == 3 and up == sorted(up) and found["sorted"] == "ascending"
    assert [float(value) for value in found["down"] if value] == up[::-1] and found["sortedAgain"] == ["descending"]
    assert found["focused"] and found["names"] == sorted(found["names"])
    lines = found["copied"].strip("\n").split("\n")
    assert len(lines) == 4 and lines[0].startswith("a\tb\tprimary\t")
    assert len({line.count("\t") for line in lines}) == 1
    assert found["links"] == [
        ["conflicts.csv", "blob:null/"[:10] + found["links"][0][1][10:]],
        ["conflicts.svg", "data:image/svg+xml,%3"],
        ["conflicts.png", "data:image/png;base64"],
    ]
    assert found["bytes"] > 500
    assert (found["first"], found["second"], found["drawn"]) == (["final/accuracy"], ["final/few"], True)
    assert found["all"] and set(found["all"]) == set(found["figures"])


@browser
def test_nothing_scrolls_sideways_on_a_phone(text, tmp_path):
    (tmp_path / "page.html").write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    phone = tmp_path / "phone.html"
    phone.write_text(f"<!DOCTYPE html><body>{PHONE}</body>", encoding="utf-8")
    width, scroll, wide, tops = ran(phone)
    assert (width, wide) == (390, [])
    assert scroll <= 390
    # the first list is on the first screen
    assert tops[0] < 800 and tops == sorted(tops)


@browser
def test_the_first_screen_has_no_hole_and_reasons_fold_to_two_lines(text, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", FIRST_SCREEN + "</body>"), encoding="utf-8")
    found = ran(file)
    assert found["cards"] == 5 and len(found["tops"]) == 3
    # the columns begin and end on one line
    assert max(found["tops"]) - min(found["tops"]) < 1 and max(found["ends"]) - min(found["ends"]) < 1
    assert found["lines"] and max(found["lines"]) < 2.2


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2.1 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_signs_can_be_read_on_their_colours():
    for name, look in formatting.VERDICTS.items():
        assert contrast(look.colour, look.ink) >= 4.5, name
    assert contrast("#5b6470", "#ffffff") >= 4.5


# linear RGB as people without one kind of cone see it: Machado, Oliveira & Fernandes 2009 (IEEE TVCG 15), severity 1
VISION = {
    "all": np.eye(3),
    "no long": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "no medium": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
    "no short": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip


def lab(colour: str, vision: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of a colour as somebody sees it."""
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = to_xyz @ np.clip(vision @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_verdicts_are_told_apart_by_every_colour_vision(vision):
    colours = {name: look.colour for name, look in formatting.VERDICTS.items() if name != "not applicable"}
    seen = {name: lab(colour, VISION[vision]) for name, colour in colours.items()}
    for one, other in itertools.combinations(seen, 2):
        # a difference of 2.3 is just noticeable
        assert np.linalg.norm(seen[one] - seen[other]) > 15, (one, other)


def test_labels_break_only_where_they_must():
    assert page.wrap("first/class_balanced") == "first/<wbr>class_balanced"
    assert page.wrap("a_trick_with_a_name_as_long_as_they_come").count("<wbr>") == 9


def test_pieces_escape_what_they_are_given():
    evil = "<x>&\"'"
    content = pd.DataFrame({"a": [evil]})
    cells = [page.name(evil, evil), page.Cell(evil, word=evil, more=[evil]), page.number(evil, 1.0, evil)]
    table = page.table([evil], [cells], "x", content)
    for made in (page.note(evil), page.wrap(evil), page.paragraph(evil), table):
        assert "<x>" not in made and "&lt;x&gt;" in made
