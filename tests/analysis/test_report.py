"""The report: what the figures hold, what the page says, and that it is one whole page."""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.conflicts import effects, pairwise
from analysis.conflicts.other_searches import OtherSearches, across, by_search
from analysis.formatting import VERDICTS, cost_of_the_rest, labels_of, points
from analysis.recipes import reliability
from analysis.records import reader
from analysis.records.intervals import bounded_interval
from analysis.records.schema import MOST_CONFUSIONS, Decisions, Point, Record, RecordError
from analysis.report import cards, findings_json, page, sections
from analysis.report.findings import from_store, gather
from analysis.report.html import MACROS
from analysis.report.plots import curves, forest_plots, heat_map
from search.mlflow_tracker import Tracker, conflict_tags

WEIGHT, DRAW, MIX = "train/cost_sensitive", "train/class_balanced", "later/mixup"
MEANS = {
    (): 0.66, (WEIGHT,): 0.87, (DRAW,): 0.88, (MIX,): 0.66, (WEIGHT, DRAW): 0.60, (WEIGHT, MIX): 0.87,
    (DRAW, MIX): 0.88,
}  # fmt: skip
JITTER = {
    0: (0, 1, -1, 0, 1, 0, -1), 1: (1, 0, 0, -1, 0, 1, 0), 2: (-1, 0, 1, 1, -1, 0, 0), 3: (0, -1, 0, 0, 0, -1, 1),
    4: (0, 0, 0, 0, 0, 0, 0),
}  # fmt: skip


HEADINGS = ["Use together", "Safe, or one is enough", "Avoid together", "One of them hurts", "Not known yet"]


def record(trial: str, tricks: tuple[str, ...], seed: int, accuracy: float, **changes) -> Record:
    title = " + ".join(tricks) or "baseline"
    return dataclasses.replace(
        Record(
            search="demo", trial=trial, arm="design", recipe=f"id-{'-'.join(t[-3:] for t in tricks) or 'none'}",
            title=title, seed=seed, split_seed=seed, first_stage=f"{tricks}{seed}", tricks=tricks, context="digits-lt",
            outcome="finished", choices={"train/lr": 0.1}, plan={}, data="digits-lt", model="resnet8", imbalance=50.0,
            fingerprint=f"print-{seed}", counts=(2, 100, 30), val_counts=(30,) * 3, epochs=4.0, epochs_trained=3.0,
            images=528, steps=8, seconds=2.0, seconds_saved=0.5, reused=("train",),
            metrics={"final/accuracy": accuracy, "final/harmonic_mean": accuracy - 0.1},
            recalls=(accuracy - 0.2, accuracy + 0.1, accuracy + 0.1),
            curve=(
                Point("train", 0, 2, 0.5, {"accuracy": accuracy / 2}), Point("later", 0, 4, 1, {"accuracy": accuracy}),
            ),
            started=1.7e9 + int(trial[1:]),
        ),
        **changes,
    )  # fmt: skip


def design() -> list[Record]:
    cells = itertools.product(JITTER.items(), enumerate(MEANS.items()))
    return [
        record(f"t{number}", tricks, seed, mean + 0.004 * jitter[index] + 0.003 * seed)
        for number, ((seed, jitter), (index, (tricks, mean))) in enumerate(cells)
    ]


def race() -> list[Record]:
    return [
        record(f"t{100 + 2 * seed + (tricks != ())}", tricks, seed, mean + 0.01 * (seed - 101), arm="race")
        for seed in (100, 101, 102)
        for tricks, mean in (((), 0.65), ((DRAW, MIX), 0.85))
    ]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return design() + race()


@pytest.fixture(scope="module")
def trials(records) -> pd.DataFrame:
    return reader.frame(records)


@pytest.fixture(scope="module")
def table(trials) -> pd.DataFrame:
    return pairwise(trials, margin=0.02)


@pytest.fixture(scope="module")
def html(trials, records, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    about = {"command": "python run_search.py", "commit": "<abc>"}
    page.write(
        path,
        gather(trials, curves=reader.curves(trials), margin=0.02, primary=[(WEIGHT, DRAW)], about=about),
    )
    return path.read_text(encoding="utf-8")


def words(html: str) -> str:
    """What a person reads, without style, scripts and markup."""
    text = re.sub(r"<(script|style|textarea)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text.replace("<wbr>", "")))


# ------------------------------------------------------------------------------------------ figures


def test_the_heat_map_holds_every_pair_once_and_the_tricks_alone(table, trials):
    info = heat_map.heat_map_info(table, effects(trials))
    assert info.labels == [MIX, DRAW, WEIGHT] and info.names == ["mixup", "class_balanced", "cost_sensitive"]
    cells = {(cell.row, cell.column): cell for cell in info.cells}
    assert set(cells) == {(0, 0), (1, 1), (2, 2), (1, 0), (2, 0), (2, 1)}
    conflict = cells[2, 1]
    assert (conflict.verdict, conflict.sign) == ("conflict", "✕")
    row = table.iloc[2]
    assert conflict.harm == min(row.b_given_a, row.a_given_b) and conflict.interaction == row.interaction
    assert f"adding cost_sensitive to class_balanced: {points(row.b_given_a)} (" in conflict.hover
    assert "5 seeds" in conflict.hover and "avoid together" in conflict.hover
    assert cells[1, 1].verdict == "alone" and cells[1, 1].harm == pytest.approx(0.22, abs=0.01)


def test_a_pair_that_cannot_be_is_blank_and_one_that_is_unknown_is_not(table):
    changed = table.assign(verdict=["not applicable", "unresolved", "conflict"])
    changed.loc[0, ["b_given_a", "a_given_b", "interaction"]] = math.nan
    signs = {cell.verdict: cell.sign for cell in heat_map.heat_map_info(changed).cells}
    assert signs == {"alone": "", "not applicable": "", "unresolved": "?", "conflict": "✕"}
    looks = VERDICTS
    assert len({look.colour for look in looks.values()}) == len({look.sign for look in looks.values()}) == len(looks)
    figure = heat_map.heat_map(changed)
    assert figure.data[0].text[1][0] == ""
    assert figure.data[0].z[0][1] is None or math.isnan(figure.data[0].z[0][1])


def test_the_forests_are_sorted(table, trials):
    alone = forest_plots.effects_info(effects(trials))
    assert [bar.name for bar in alone] == ["class_balanced", "cost_sensitive", "mixup"]
    assert [bar.kind for bar in alone][:2] == ["helps", "helps"]
    pairs = forest_plots.pairs_info(table)
    assert len(pairs) == 6
    assert [bar.value for bar in pairs] == sorted(bar.value for bar in pairs)
    assert pairs[0].kind == "conflict" and pairs[0].low < pairs[0].value < pairs[0].high < 0
    assert {"class_balanced added to cost_sensitive", "cost_sensitive added to class_balanced"} == {
        bar.name for bar in pairs[:2]
    }
    assert forest_plots.pairs_info(table.assign(verdict="not applicable")) == []


def test_effects_in_two_contexts_are_told_apart():
    row = {"trick": "a", "n_seeds": 3, "effect": -0.1, "low": -0.2, "high": -0.05}
    bars = forest_plots.effects_info(pd.DataFrame([row | {"context": "x"}, row | {"context": "y", "high": 0.1}]))
    assert [(bar.name, bar.kind) for bar in bars] == [
        ("a (x at equal length)", "hurts"),
        ("a (y at equal length)", "unresolved"),
    ]


def test_curves_are_means_over_seeds(records):
    rows = reader.curves(reader.frame(records[:8]))
    (curve,) = curves.curves_info(rows, {"id-none": "baseline", "nowhere": "lost"})
    first, second = (r.metrics["final/accuracy"] for r in records[:8] if not r.tricks)
    assert (curve.name, curve.epochs, sorted(curve.seeds)) == ("baseline", [2, 4], [0, 1])
    assert curve.mean[1] == pytest.approx((first + second) / 2)
    assert curve.seeds[0] == ([2, 4], [first / 2, first])


def test_recalls_are_sorted_by_the_training_images(trials):
    (recall,) = curves.recalls_info(trials[trials["seed"] < 2], {"id-none": "baseline"})
    assert (recall.classes, recall.counts, recall.seeds) == ([1, 2, 0], [100, 30, 2], 2)
    accuracy = trials[(trials["recipe"] == "id-none") & (trials["seed"] < 2)]["final/accuracy"].mean()
    assert recall.mean == pytest.approx([accuracy + 0.1, accuracy + 0.1, accuracy - 0.2])
    assert recall.names == ["class 1", "class 2", "class 0"] and recall.val_counts == [30, 30, 30]
    assert curves.recalls_info(trials.drop(columns=["recall/0", "recall/1", "recall/2"]), {"id-none": "x"}) == []


def test_progress_counts_in_the_order_of_the_end():
    rows = reader.frame(
        [
            record("t1", (), 0, 0.6, seconds=50.0),
            record("t2", (), 1, 0.5),
            record("t3", (), 2, 0.9, outcome="stopped"),
            record("t4", (), 3, 0.55, arm="adaptive"),
        ]
    )
    info = curves.progress_info(rows)
    assert (info.order, info.score, info.best) == ([1, 3, 4], [0.5, 0.55, 0.6], [0.5, 0.55, 0.6])
    assert info.arm == ["design", "adaptive", "design"]


# ------------------------------------------------------------------------------------------ the answer


def test_the_answer_names_the_best_the_conflict_and_what_is_free(trials):
    answer = dict(cards.answer(gather(trials, margin=0.02)))
    best = answer["Best recipe"]
    # By hand: race means 0.85 and 0.65, gains all 0.20; half width of the t interval h = 4.3027 × 0.01 / √3 = 0.02484,
    # w = h² / (0.85 × 0.15) = 0.00484, (0.85 + w / 2) / (1 + w) ± √(0.1275 w + w² / 4) / (1 + w).
    assert best.startswith(
        "train/class_balanced + later/mixup, 85.0 % accuracy on val (95 % interval 82.3 to 87.3, 3 seeds"
    )
    assert "Over the baseline: +20.0 points (+20.0 to +20.0); paired over 3 seeds." in best
    # by hand: 0.60 + 0.003 × 2 against 0.88 + 0.003 × 2, the jitter of both being 0 on average
    assert answer["Avoid together"] == (
        "1 of 3 pairs. Adding one to the other hurts because their effects overlap. "
        "class_balanced × cost_sensitive (cost_sensitive added to class_balanced: −28.0 points (−28.5 to −27.5); "
        "it helps alone; not tested at other learning rates)."
    )
    safe = answer["Safe, or one is enough"]
    assert safe.startswith(
        "2 of 3 pairs. Intervals exclude a loss of 2.0 points or more, or the effects overlap without a loss. mixup × "
    )
    assert safe.count(" (a loss of 0.3 points at most)") == 2
    assert answer["Use together"] == "No pair is shown to be better than each alone."
    assert answer["One of them hurts"] == "No further trick is shown to hurt beside another."
    assert answer["Not known yet"] == "Every pair has an answer."
    assert list(answer) == ["Before you believe it", *HEADINGS, "Best recipe"]


def test_reasons_not_to_believe_the_search_come_first_where_there_are_any(trials):
    found = gather(trials, margin=0.02)
    warned = dict(cards.answer(found))["Before you believe it"]
    assert warned == " ".join(found.health) and "Val is small for a margin of 2.0 points" in warned
    text = words(page.render(found))
    assert text.index("Before you believe it") < text.index("better together")
    large = trials.assign(val_counts=[(3000, 3000, 3000)] * len(trials))
    assert [name for name, _ in cards.answer(gather(large, margin=0.02))] == [*HEADINGS, "Best recipe"]


def test_pairs_that_gain_are_to_be_used_together():
    cells = {(): 0.6, (DRAW,): 0.65, (MIX,): 0.66, (DRAW, MIX): 0.72}
    rows = [
        record(f"t{10 * seed + number}", tricks, seed, mean + 0.002 * ((seed + number) % 3))
        for seed in range(5)
        for number, (tricks, mean) in enumerate(cells.items())
    ]
    answer = dict(cards.answer(gather(reader.frame(rows), margin=0.02)))
    assert answer["Use together"].startswith(
        "1 of 1 pairs. Adding each to the other helps, and both together beat the recipe without them. "
        "mixup × class_balanced (at least +6."
    )
    assert " over either alone; not tested at other learning rates)." in answer["Use together"]


def test_a_pair_in_which_one_harms_is_not_a_pair_to_avoid(trials, table):

    def third(**row) -> pd.DataFrame:
        return table.assign(**{name: [*table[name][:2], value] for name, value in row.items()})

    changed = third(
        verdict="harmful", action=f"do not add {WEIGHT} to {DRAW}", sign_flip=False, a_given_b_verdict="unknown"
    )
    found = gather(trials, conflicts=changed, margin=0.02)
    answer = dict(cards.answer(found))
    assert answer["Avoid together"] == "No pair is shown to be in conflict."
    assert answer["One of them hurts"] == (
        "1 of 3 pairs. Adding one trick hurts; whether the pair or that trick alone is to blame is open. "
        "class_balanced × cost_sensitive (cost_sensitive added to class_balanced: −28.0 points (−28.5 to −27.5); "
        "not tested at other learning rates)."
    )
    assert list(answer)[-6:] == [*HEADINGS, "Best recipe"]

    def told(**row) -> str:
        other = third(verdict="harmful", sign_flip=False, **row)
        return dict(cards.answer(gather(trials, conflicts=other, margin=0.02)))["One of them hurts"]

    assert "(cost_sensitive added to class_balanced: −28.0 points (−28.5 to −27.5); class_balanced added to " in told()
    # the direction that is shown, and not the one whose estimate is lower
    shown = told(b_given_a_verdict="unknown")
    assert "(class_balanced added to cost_sensitive: −27.0 points (−27.4 to −26.6); not tested" in shown
    assert "cost_sensitive added to class_balanced" not in shown


def test_the_first_line_counts_the_lists(trials):
    page_text = words(page.render(gather(trials, margin=0.02)))
    assert "+ 0 better together ✓ 2 safe ✕ 1 to avoid ! 0 with one that hurts ? 0 not known yet" in page_text
    assert page_text.index("1 to avoid") < page_text.index("1 of 3 pairs")


def test_the_answer_says_what_is_not_known(trials):
    few = trials[trials["seed"].isin([0, 1])]
    answer = dict(cards.answer(gather(few, margin=0.0001)))
    assert "no race on fresh seeds has been run" in answer["Best recipe"]
    assert answer["Not known yet"].startswith("3 of 3 pairs. 0 of 6 directions and 0 of 3 pairs have an answer. ")
    assert "It does not mean that the pair is harmless" in VERDICTS["unresolved"].words
    assert "a claim about it needs at least 3" in answer["Not known yet"]
    noisy = trials[(trials["arm"] == "design") & (trials["seed"] < 3)].copy()
    spread = np.random.default_rng(0).normal(0, 0.04, len(noisy))
    noisy["final/accuracy"] = (noisy["final/accuracy"] + spread).clip(0, 1)
    unsettled = dict(cards.answer(gather(noisy, margin=0.001)))["Not known yet"]
    assert unsettled.startswith("2 of 3 pairs. 4 of 6 directions and 1 of 3 pairs have an answer. Another ")
    assert re.search(
        r"mixup × class_balanced \(class_balanced added to mixup: helps; about \d+ more seeds\)",
        unsettled,
    )
    one = dict(cards.answer(gather(trials[trials["seed"] == 0])))
    assert one["Not known yet"].startswith("Unknown: no pair could be judged (")
    assert "its 90 images a block over 1 block leave " in one["Before you believe it"]
    assert "no interval" in one["Best recipe"] and "is not shown" in one["Best recipe"]
    none = dict(cards.answer(gather(trials.iloc[:0])))
    assert none["Best recipe"] == "Unknown: no trial has finished yet."


def test_a_leading_baseline_and_a_longer_recipe_are_said():
    plain = [record(f"t{seed}", (), seed, 0.7) for seed in range(3)]
    answer = dict(cards.answer(gather(reader.frame(plain))))
    assert answer["Best recipe"].startswith("No recipe is ahead of the baseline, which has 70.0 % accuracy")
    longer = [record(f"t{seed + 5}", (MIX,), seed, 0.8, images=1056) for seed in range(3)]
    longer.append(record("t9", (MIX,), 9, 0.1, outcome="diverged"))
    answer = dict(cards.answer(gather(reader.frame(plain + longer))))
    assert "It trains on 2.0 times the images that the baseline sees." in answer["Best recipe"]
    assert "1 of its trials diverged." in answer["Best recipe"]


def test_the_test_split_is_told_for_the_confirmed_winner_and_the_baseline(trials):
    confirmed = [
        record("t300", (DRAW, MIX), 200, 0.84, arm="confirm", metrics={"final/accuracy": 0.84, "test/accuracy": 0.83}),
        record("t301", (), 200, 0.66, arm="confirm", metrics={"final/accuracy": 0.66, "test/accuracy": 0.64}),
    ]
    answer = dict(cards.answer(gather(pd.concat([trials, reader.frame(confirmed)], ignore_index=True))))
    assert answer["Best recipe"].endswith(
        "On the test split, read once, it has 83.0 % (1 seed) and the baseline has 64.0 % (1 seed)."
    )


def test_the_test_split_never_ranks(trials):
    with pytest.raises(RecordError, match="metric 'test/accuracy' is of the test split"):
        gather(trials, metric="test/accuracy")
    with pytest.raises(RecordError, match="recipe 'nobody' cannot be called best: it has no finished trial"):
        gather(trials, best="nobody")


@pytest.mark.parametrize(
    "loss, words", [(0.0, "no loss"), (0.0004, "no loss"), (0.0006, "a loss of 0.1 points at most")]
)
def test_a_pair_without_a_loss_says_so(loss, words):
    assert cards.excluded_loss(loss) == words


def test_the_open_pairs_say_what_they_would_cost(trials):
    noisy = trials[(trials["arm"] == "design") & (trials["seed"] < 3)].copy()
    spread = np.random.default_rng(0).normal(0, 0.04, len(noisy))
    noisy["final/accuracy"] = (noisy["final/accuracy"] + spread).clip(0, 1)
    findings = gather(noisy, margin=0.001)
    needed = sorted(findings.conflicts["more_seeds"][findings.conflicts["verdict"] == "unresolved"])
    # two pairs are open: the cheaper one is half of them; a block has 7 trials of 2 s
    text = dict(cards.answer(findings))["Not known yet"]
    time = f"{14 * needed[0]:.0f} s" if 14 * needed[0] < 100 else f"{14 * needed[0] / 60:.0f} min"
    assert len(needed) == 2
    assert f"Another {needed[0]} seed blocks (--seeds +{needed[0]}: about {7 * needed[0]} trials and {time} of" in text


@pytest.mark.parametrize(
    "more, words",
    [
        ([7], "Another 7 seed blocks (--seeds +7: about 14 trials and 28 s of training) would settle it."),
        ([1, 100], "Another 1 seed block (--seeds +1: about 2 trials and 4 s of training) would settle at least half"),
        ([100, 100, 3], "More than 100 further seed blocks would be needed to settle at least half of them."),
        ([pd.NA], "How many further seed blocks would settle it cannot be said yet."),
        ([], ""),
    ],
)
def test_the_cost_of_the_open_pairs_by_hand(more, words):
    pairs = pd.DataFrame({"verdict": "unresolved", "more_seeds": pd.array(more, dtype="Int64")})
    # two seed blocks of two trials of 2 s
    design = pd.DataFrame({"arm": "design", "seed": [0, 0, 1, 1], "seconds": 2.0})
    assert cost_of_the_rest(pairs, design).startswith(words) and bool(cost_of_the_rest(pairs, design)) == bool(words)


DUMMY = """
from markupsafe import Markup
TITLE = "A dummy section"
def problem(findings):
    return None if len(findings.trials) > {least} else "there are too few trials"
def html(findings):
    return Markup("<p>{{}}</p>").format(f"<{{len(findings.trials)}} trials>" if {works} else findings.absent)
"""


def test_one_file_and_one_line_make_a_section_and_a_broken_one_costs_no_page(trials, tmp_path, monkeypatch):
    names = {"dummy_shown": (0, True), "dummy_silent": (10**6, True), "dummy_broken": (0, False)}
    for name, (least, works) in names.items():
        (tmp_path / f"{name}.py").write_text(DUMMY.format(least=least, works=works))
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    monkeypatch.setattr(sections, "ORDER", (*names, "no_such_file", *sections.ORDER))
    text = page.render(gather(trials, margin=0.02))
    assert structure(text).open == [] and {*names, *sections.ORDER} <= set(structure(text).ids)
    read = unescape(words(text))
    assert f"A dummy section <{len(trials)} trials>" in read and "A dummy section there are too few trials" in read
    assert "AttributeError: 'Findings' object has no attribute 'absent' dummy_broken.py, line 7" in read
    assert read.count("This section could not be written; the rest of the page is complete.") == 2
    assert "How to read a verdict For two tricks there are four recipes" in read


def test_every_file_among_the_sections_is_registered():
    files = {path.stem for path in Path(sections.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(sections.ORDER)


# ------------------------------------------------------------------------------------------ the page


class Structure(HTMLParser):
    """Checks that tags close in order, and gathers what a browser would fetch."""

    VOID = frozenset({"meta", "link", "br", "wbr", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.fetched += [values[name] for name in ("src", "srcset", "data", "poster") if values.get(name)]
        if tag == "link":
            self.fetched.append(values["href"])
        if tag == "a":
            self.links.append(values["href"])
        if values.get("id"):
            self.ids.append(values["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def structure(html: str) -> Structure:
    found = Structure()
    found.feed(html)
    found.close()
    return found


def test_the_page_is_whole_and_fetches_nothing(html):
    found = structure(html)
    assert found.open == []
    assert found.fetched == ["data:,"]
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    own = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)
    assert "http://" not in own and "https://" not in own and "@import" not in own and "url(" not in own
    assert html.count("plotly.js v") == 1
    assert 'name="viewport"' in html
    figures = ("conflicts", "harms", "effects", "curves", "recalls", "progress")
    assert {f"figure-{name}" for name in figures} <= set(found.ids)


def test_the_page_says_the_verdicts_with_intervals_and_seeds(html, table):
    text = words(html)
    row = table.iloc[2]
    assert "✕ conflict" in text and "avoid together" in text and "declared beforehand" in text
    assert points(row.interaction) in text
    assert f"{points(row.interaction_low)} to {points(row.interaction_high)}" in text
    assert "✓ safe to combine" in text
    assert (
        "digits-lt, imbalance 50, 3 classes of 100 to 2 training images; resnet8; 4 epochs; no other trick on" in text
    )
    assert "at this schedule length" in text
    for look in VERDICTS.values():
        assert look.words in text
    assert "the margin is 2.0 points" in text
    assert (
        "The plans of 41 trials add up to 164 epochs: 123 were trained, 41 (25 %) were re-used from other trials."
        in text
    )
    assert "python run_search.py" in text and "&lt;abc&gt;" in text


def test_the_tables_are_copied_as_csv_in_fractions(html, table):
    source = re.search(r'<textarea id="csv-conflicts"[^>]*>(.*?)</textarea>', html, flags=re.DOTALL).group(1)
    rows = list(csv.DictReader(io.StringIO(source.replace("&quot;", '"').replace("&#x27;", "'"))))
    assert [row["verdict"] for row in rows] == table["verdict"].tolist()
    assert float(rows[2]["interaction"]) == pytest.approx(table["interaction"][2])


def test_an_empty_search_says_what_is_missing(trials, tmp_path):
    text = page.write(tmp_path / "r.html", gather(trials.iloc[:0])).read_text(encoding="utf-8")
    assert structure(text).open == []
    text = words(text)
    for sentence in (
        "No trial has been logged.",
        "No trial has finished, so there is no recipe to rank.",
        "the design arm has not run, and it alone can show conflicts",
        "No learning curves were logged.",
        "No recall of single classes was logged",
    ):
        assert sentence in text
    assert "None" not in text.replace("None.", "") and "nan" not in text.replace("nant", "")


def test_without_a_race_the_page_says_so(trials, tmp_path):
    text = words(page.write(tmp_path / "r.html", gather(trials[trials["arm"] == "design"])).read_text(encoding="utf-8"))
    assert "No race on fresh seeds has been run" in text


def in_part(records: list[Record]) -> pd.DataFrame:
    """Of three classes, one has no val image."""
    evil = "</script><b>dog"
    return reader.frame(
        dataclasses.replace(
            one, val_counts=(0, 9, 2), class_names=(evil, "ant", "bee"), recalls=(math.nan, *one.recalls[1:]),
            metrics=one.metrics | {"final/classes_judged": 2.0, "final/classes_in_worst": 1.0},
        )
        for one in records
    )  # fmt: skip


def test_classes_without_val_images_are_named_where_the_accuracy_stands(records, tmp_path):
    trials = in_part(records)
    html = page.write(tmp_path / "r.html", gather(trials, margin=0.02)).read_text(encoding="utf-8")
    assert structure(html).open == [] and "<b>dog" not in html
    text = words(html)
    part = "1 of 3 classes has no val image: </script><b>dog. Accuracy on val is the mean recall of the other 2"
    said, part = part, escape(part)
    best = text[text.index("Best recipe") :]
    assert part in best[: best.index("Which tricks conflict")]
    assert "recalls on 0 to 9 val images a class; points are" in text and "balanced val" not in text
    assert text.count(part) >= 3  # the answer, the units, the classes
    assert "The harmonic mean and the lowest recall are over 1 of 3 classes, those with enough val images" in text
    answer = dict(cards.answer(gather(trials, margin=0.02)))
    assert said in answer["Best recipe"]
    even = words(
        page.write(tmp_path / "r.html", gather(reader.frame(records), margin=0.02)).read_text(encoding="utf-8")
    )
    assert "no val image" not in even and "recalls on 30 val images of each class" in even


def test_classes_are_shown_by_name(records, tmp_path):
    trials = in_part(records)
    best, baseline = curves.recalls_info(
        trials[trials["seed"] >= 100], {"id-ced-xup": "best recipe", "id-none": "baseline"}
    )
    assert best.names == baseline.names == ["ant", "bee", "</script><b>dog"]
    assert math.isnan(best.mean[2]) and best.seeds == 3 and best.low[0] < best.mean[0] < best.high[0] <= 1
    figure = curves.recalls([best, baseline])
    assert figure.data[0].customdata[0].startswith("ant, 100 training images: 9")
    assert figure.layout.xaxis.ticktext[2] == "<b>&lt;/script&gt;&lt;b&gt;d…</b><br>2"
    assert figure.data[0].error_y.array[2] == 0
    html = page.write(tmp_path / "r.html", gather(trials, margin=0.02)).read_text(encoding="utf-8")
    source = re.search(r'<textarea id="csv-classes"[^>]*>(.*?)</textarea>', html, re.DOTALL).group(1)
    rows = list(csv.DictReader(io.StringIO(unescape(source))))
    assert [row["class"] for row in rows] == ["ant", "bee", "</script><b>dog"]
    assert [row["val images"] for row in rows] == ["9", "2", "0"] and rows[2]["best recipe, recall"] == ""
    assert float(rows[0]["best recipe, recall"]) == pytest.approx(0.95)


def with_decisions(rows: list[Record]) -> list[Record]:
    """Two seeds of a recipe that say what they predicted; 30 val images of each of three classes."""
    said = [
        Decisions((20, 40, 30), ((0, 1, 10), (2, 0, 5)), {"0.9": ((10, 20, 20), (1, 0, 2))}),
        Decisions((24, 36, 30), ((0, 1, 8), (0, 2, 1)), {"0.9": ((10, 10, 0), (3, 0, 0))}),
    ]
    recalls = [(0.5, 1.0, 0.8), (0.6, 1.0, 0.9)]
    # at val's frequencies the calibration error is another number, 0.4, which the page must not set beside 0.05
    fitted = {"final/temperature": 1.5, "final/prior_exponent": 0.9, "final/calibration_error": 0.4}
    fitted |= {"final/calibration_error_uncalibrated": 0.2}
    more = fitted | {"final/calibrated_error": 0.05, "final/calibrated_accuracy": 0.8, "final/accuracy": 0.77}
    return [
        dataclasses.replace(row, decisions=each, recalls=recall, metrics=more, class_names=("ant", "<b>ee", "cat"))
        for row, each, recall in zip(rows, said, recalls, strict=True)
    ]


def test_precision_confusions_and_calibration_by_hand():
    mine = reader.frame(with_decisions([record("t0", (), 0, 0.77), record("t1", (), 1, 0.77)]))
    # class 0: 15 of 20 and 18 of 24; class 1: 30 of 40 and 30 of 36
    assert reliability.precision(mine, 0)[0] == pytest.approx(0.75)
    assert reliability.precision(mine, 1) == pytest.approx(bounded_interval([30 / 40, 30 / 36], images=38))
    assert reliability.recall(mine, 0) == pytest.approx(bounded_interval([0.5, 0.6], images=30))
    (first, second, third) = reliability.confusions(mine)
    assert first[:3] == (0, 1, 18) and first.share == pytest.approx(bounded_interval([10 / 30, 8 / 30], images=30))
    assert second[:3] == (2, 0, 5) and second.share[0] == pytest.approx(2.5 / 30) and third[:3] == (0, 2, 1)
    answers, wrong = reliability.wrong_above(mine, 0, "0.9")
    assert answers == 10.0 and wrong == pytest.approx(bounded_interval([0.1, 0.3], images=10))
    # a seed that gives no confident answer of a class says nothing of how many are wrong
    assert reliability.wrong_above(mine, 2, "0.9")[1][0] == pytest.approx(0.1)
    shown = sections.rendered("reliability", gather(mine, margin=0.02))
    text = str(shown.body)
    assert shown.title == "Precision, confusions and calibration" and "has no record of its predictions" not in text
    for words in ("75.0", "&lt;b&gt;ee", "Largest confusions of the baseline", "1.50", "20.0", "5.0", "Abstention"):
        assert words in text
    assert "<b>ee" not in text and "40.0" not in text
    old = sections.rendered("reliability", gather(reader.frame([record("t0", (), 0, 0.77)]), margin=0.02))
    assert "earlier versions kept the recall of each class alone" in str(old.body)
    # the journal keeps it, and a recipe names it
    (row, _) = with_decisions([record("t0", (), 0, 0.77), record("t1", (), 1, 0.77)])
    assert Record.from_json(row.to_json()) == row


def test_a_pair_that_a_cut_list_lacks_is_unknown():
    full = tuple((0, label, 2) for label in range(1, MOST_CONFUSIONS + 1))
    said = [Decisions((1,), full), Decisions((1,), ((0, 1, 4), (1, 0, 3)))]
    rows = [record("t0", (), 0, 0.77), record("t1", (), 1, 0.77)]
    mine = reader.frame([dataclasses.replace(row, decisions=each) for row, each in zip(rows, said, strict=True)])
    found = {confusion[:2]: confusion for confusion in reliability.confusions(mine)}
    # 30 val images: 2 and 4 of them; a short list without a pair means 0, a full one nothing
    assert found[0, 1].images == 6 and found[0, 1].share[0] == pytest.approx((2 / 30 + 4 / 30) / 2)
    assert found[0, 2].images == 2 and found[0, 2].share[0] == pytest.approx((2 / 30 + 0) / 2)
    assert found[1, 0].images == 3 and all(math.isnan(number) for number in found[1, 0].share)


def test_text_of_others_is_escaped(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    rows = [record(f"t{seed}", (), seed, 0.6) for seed in range(3)]
    rows += [
        record(f"t{seed + 10}", (evil,), seed, 0.7, title=evil, recipe=evil, reason=evil, context=evil)
        for seed in range(3)
    ]
    rows += [record(f"t{seed + 20}", (evil, "b"), seed, 0.7, title=evil + "b", recipe="b") for seed in range(3)]
    rows += [record(f"t{seed + 30}", ("b",), seed, 0.7, title="b", recipe="c") for seed in range(3)]
    rows = [dataclasses.replace(row, context="") for row in rows]
    rows.append(record("t50", (evil,), 5, 0.1, outcome="failed", reason=evil))
    trials = reader.frame(rows)
    text = page.write(
        tmp_path / "r.html", gather(trials, curves=reader.curves(reader.frame(rows)), about={evil: evil})
    ).read_text()
    assert "<img" not in text
    assert structure(text).open == []


def test_the_lists_come_before_everything_else(html):
    text = words(html)
    order = [text.index(head) for head in (*HEADINGS, "Best recipe")]
    assert order == sorted(order) and order[-1] < text.index("Which tricks conflict")
    assert "class_balanced × cost_sensitive" in text[order[2] : order[3]]


def test_long_lists_unfold():
    pairs = tuple((f"a{index} × b", "1 point") for index in range(9))
    card = MACROS.card(cards.Card("Safe, or one is enough", "compatible", "9 of 9 pairs.", pairs))
    assert card.index("a4 ×") < card.index("<details><summary>and 4 more</summary>") < card.index("a5 ×")
    assert structure(card).open == []


def with_metrics(trials: pd.DataFrame) -> pd.DataFrame:
    few = (trials["final/accuracy"] - 0.2).clip(0, 1)
    return trials.assign(**{"final/few": few, "final/smoothed_harmonic_mean": few.where(trials["seed"] > 100, few)})


def test_pairs_are_judged_by_further_metrics_behind_a_switch(trials, tmp_path):
    found = gather(with_metrics(trials), margin=0.02)
    assert (
        list(found.other_metrics.tables) == ["final/few", "final/smoothed_harmonic_mean"]
        and found.other_metrics.skipped == {}
    )
    text = page.render(found)
    assert structure(text).open == []
    assert text.count('type="radio" name="metric"') == 3
    assert "accuracy (decides)" in words(text) and "few-shot accuracy" in words(text)
    assert {"figure-conflicts", "figure-conflicts-few", "csv-conflicts-smoothed_harmonic_mean"} <= set(
        structure(text).ids
    )


def test_a_metric_that_some_trials_lack_is_skipped_with_the_reason(trials):
    lacking = with_metrics(trials)
    lacking.loc[lacking.index[0], "final/few"] = math.nan
    found = gather(lacking, margin=0.02)
    assert (
        list(found.other_metrics.tables) == ["final/smoothed_harmonic_mean"]
        and "final/few" in found.other_metrics.skipped["final/few"]
    )
    assert "No table by few-shot accuracy: " in words(page.render(found))


def checks(setting: str, means: dict) -> list[Record]:
    return [
        record(
            f"t{1000 + 100 * len(setting) + 10 * seed + number}", tricks, seed,
            mean + 0.002 * ((seed + len(tricks)) % 3), arm="check", setting=setting,
        )
        for seed in range(4)
        for number, (tricks, mean) in enumerate(means.items())
    ]  # fmt: skip


def test_a_verdict_is_robust_where_it_holds_at_other_learning_rates(records):
    four = {cell: mean for cell, mean in MEANS.items() if MIX not in cell}
    same = reader.frame(records + checks("lr/3", four) + checks("lr*3", four))

    def robustness(trials: pd.DataFrame) -> list[str]:
        row = gather(trials, margin=0.02).conflicts.set_index(["a", "b"]).loc[DRAW, WEIGHT]
        return [row["holds"], row["holds_why"]]

    assert robustness(same) == ["robust", "also shown at a third of the learning rate, three times the learning rate"]
    better = {**four, (WEIGHT, DRAW): 0.9}
    other = robustness(reader.frame(records + checks("lr/3", four) + checks("lr*3", better)))
    assert other == ["at these settings", "not shown at three times the learning rate (better together)"]
    half = robustness(reader.frame(records + checks("lr/3", four)))
    assert half == ["at these settings", "not run at three times the learning rate"]
    short = [row for row in checks("lr/3", four) + checks("lr*3", four) if row.seed < 2]
    told = dict(cards.answer(gather(reader.frame(records + short), margin=0.02)))
    assert "too few seeds at other learning rates to say whether it holds there" in told["Avoid together"]
    assert "robust: also shown at a third" in words(page.render(gather(same, margin=0.02)))


def test_nominated_pairs_are_judged_apart(records):
    pair = ("train/focal", "train/ldam")
    cells = {(): 0.7, pair[:1]: 0.72, pair[1:]: 0.73, pair: 0.6}
    rows = [
        record(f"t{2000 + 10 * seed + number}", tricks, 300 + seed, mean + 0.002 * ((seed + number) % 2),
               arm="nominated", context="nominated:x")
        for seed in range(4) for number, (tricks, mean) in enumerate(cells.items())
    ]  # fmt: skip
    found = gather(reader.frame(records + rows), margin=0.02)
    assert found.nominated[["a", "b", "verdict"]].values.tolist() == [[*pair, "conflict"]]
    assert "train/focal" not in set(found.conflicts["a"])
    assert "Pairs that the adaptive arm suggested" in words(page.render(found))


def test_stops_are_told_in_numbers(trials):
    stop = {"rung": 0.5, "score": "class_means", "value": 0.612, "cut": 0.701, "among": 7, "cohort": ["a", "b"]}
    stopped = [
        record("t500", (MIX,), 100, 0.5, arm="adaptive", outcome="stopped", stop=stop, reason="too low"),
        record("t501", (MIX,), 100, 0.5, arm="adaptive", outcome="stopped", reason="an old record's words"),
    ]
    text = words(page.render(gather(pd.concat([trials, reader.frame(stopped)], ignore_index=True))))
    assert "Why 2 trials were stopped" in text
    assert "50 % of its plan61.270.17a &gt; bclass_means" in text.replace("</td>", "") and "an old record's words" in (
        text.replace("&#x27;", "'")
    )


def test_pairs_are_compared_with_other_searches(trials, table):
    weaker = table.assign(**{name: table[name] / 2 for name in ("b_given_a", "a_given_b", "interaction")})
    tables = {"demo: digits-lt, imbalance 50": table, "other: digits-lt, imbalance 10": weaker}
    each = by_search(tables)
    found = gather(
        trials, margin=0.02, other_searches=OtherSearches(across(tables), each, {"third": "it has <no> design"})
    )
    text = page.render(found)
    assert structure(text).open == [] and "figure-elsewhere" in text
    read = words(text)
    assert "2 searches of the store have pairs in common." in read and "other: digits-lt, imbalance 10" in read
    assert "differs" in read and "Left out, third: it has &lt;no&gt; design" in read
    bars = forest_plots.other_searches_info(each)
    assert [bar.kind for bar in bars[:2]] == ["compatible", "compatible"] and len(bars) == 6
    alone = words(page.render(gather(trials, margin=0.02)))
    assert "Not known: the store holds no other search with these pairs." in alone


def test_a_fixed_val_is_named_with_its_images_share(trials):
    rng = np.random.default_rng(1)
    hits = [tuple(int(hit) for hit in rng.random(200) < y) for y in trials["final/accuracy"]]
    fixed = trials.assign(correct=hits, split_seed=0, **{"final/accuracy": [sum(h) / 200 for h in hits]})
    text = words(page.render(gather(fixed, margin=0.02)))
    assert "Val is the same 200 images in every block: their share of the variance" in text
    assert "Every block has its own split" in words(page.render(gather(trials, margin=0.02)))
    unknown = trials.assign(split_seed=0)
    assert "too narrow for new ones" in words(page.render(gather(unknown, margin=0.02)))


def around(trials: pd.DataFrame) -> pd.DataFrame:
    """The winner, each of its two tricks removed, and the baseline, over four fresh blocks."""
    cells = {(): 0.6, (DRAW,): 0.8, (MIX,): 0.61, (DRAW, MIX): 0.8}
    return reader.frame(
        [
            record(f"t{3000 + 10 * seed + number}", tricks, 900 + seed, mean + 0.003 * ((seed + number) % 3),
                   arm="around", context="around:w")
            for seed in range(4) for number, (tricks, mean) in enumerate(cells.items())
        ]
    )  # fmt: skip


def test_what_the_best_recipe_needs(trials):
    found = gather(pd.concat([trials, around(trials)], ignore_index=True), margin=0.02)
    text = page.render(found)
    assert {"figure-path", "figure-removals", "csv-path", "csv-removals"} <= set(structure(text).ids)
    rows = {row["removed"]: row for row in csv_of(text, "removals")}
    assert rows[DRAW]["word"] == "needed" and rows[MIX]["word"] == "may be removed"
    steps = csv_of(text, "path")
    assert [step["added"] for step in steps] == ["", DRAW, MIX]
    assert float(steps[-1]["total"]) == pytest.approx(0.2, abs=0.01)
    assert "Not known: the best recipe was not run with some" in words(page.render(gather(trials)))


def csv_of(html: str, name: str) -> list[dict[str, str]]:
    source = re.search(rf'<textarea id="csv-{name}"[^>]*>(.*?)</textarea>', html, flags=re.DOTALL).group(1)
    return list(csv.DictReader(io.StringIO(source.replace("&quot;", '"').replace("&#x27;", "'"))))


def test_the_front_is_drawn_on_a_large_val(trials):
    large = with_metrics(trials).assign(val_counts=[(60, 60, 60)] * len(trials))
    text = page.render(gather(large, margin=0.02))
    assert "figure-front" in structure(text).ids
    rows = csv_of(text, "front")
    assert sum(row["knee"] == "True" for row in rows) == 1
    # raced on fresh seeds: the others' means flatter
    assert [row["recipe"] for row in rows if row["on_front"] == "True"] == ["id-ced-xup"]


def test_primary_pairs_may_come_as_text(trials):
    found = gather(trials, margin=0.02, primary=f"{DRAW}×{WEIGHT}, {MIX}×{DRAW}")
    assert found.conflicts["primary"].tolist() == [True, False, True]


def test_the_front_is_refused_on_a_small_val(trials):
    assert "needs at least 50 val images per class" in words(page.render(gather(trials)))


def test_the_context_names_the_other_tricks(trials):
    text = words(page.render(gather(trials, about={"epochs_scale": 0.5})))
    assert "4 epochs (50 % of the standard length); no other trick on" in text


# ------------------------------------------------------------------------------------------ the command


def test_the_command_reads_the_latest_search(uri, records, table, tmp_path, capsys):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({"margin": 0.02, "primary": f"{DRAW}×{WEIGHT}"}, {})
    for one in records:
        tracker.log(one)
    tracker.summary(tags=conflict_tags(table))
    assert tracker.close() == []

    name, found = from_store(uri)
    assert name == "demo" and found.margin == 0.02 and found.problem == ""
    assert found.conflicts[["a", "b", "verdict"]].equals(table[["a", "b", "verdict"]])
    assert found.conflicts["primary"].tolist() == [False, False, True]
    assert [name for name, _ in cards.answer(found)] == ["Before you believe it", *HEADINGS, "Best recipe"]

    assert page.main(["--out", "page.html"]) == 0
    assert capsys.readouterr().out == f"report of search demo (41 trials in {uri}): page.html\n"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert structure(text).open == [] and "figure-curves" in text

    other = Tracker(uri, "other", "digits-lt")
    other.start({"margin": 0.02}, {})
    for one in records:
        if one.arm == "design":
            other.log(dataclasses.replace(one, search="other", imbalance=10.0))
    assert other.close() == []
    _, found = from_store(uri, "demo")
    assert found.other_searches.pooled["n_searches"].tolist() == [2, 2, 2]
    assert found.other_searches.pooled["word"].tolist()[2] == "holds in all"
    assert sorted(set(found.other_searches.searches["search"])) == [
        "demo: digits-lt, imbalance 50, resnet8, 4 epochs", "other: digits-lt, imbalance 10, resnet8, 4 epochs"
    ]  # fmt: skip
    assert "figure-elsewhere" in page.render(found)

    assert page.main(["--search", "dmo"]) == 2
    assert "did you mean 'demo'?" in capsys.readouterr().err
    assert page.main(["--out", str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "page.html cannot be written: No such file or directory" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_records_that_contradict_each_other_are_no_report(uri, records, tmp_path, capsys):
    tracker = Tracker(uri, "demo", "digits-lt")
    tracker.start({"margin": 0.02}, {})
    first = next(one for one in records if one.arm == "design" and one.tricks)
    for one in (*records, dataclasses.replace(first, trial="again", outcome="diverged")):
        tracker.log(one)
    assert tracker.close() == []
    before = sorted(tmp_path.iterdir())
    assert page.main(["--out", "page.html"]) == 2
    said = capsys.readouterr().err
    assert f"at seed {first.seed} both finished and diverged; one cell and seed has one outcome" in said
    assert said.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


def test_findings_json_has_the_keys_that_its_page_names(trials, table):
    found = findings_json.document(trials, table.assign(holds=""), None, margin=0.02) | {"tables": {}, "early_ends": []}
    rows = [line.split("|")[1] for line in findings_json.__doc__.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(found)
    assert json.loads(json.dumps(found, allow_nan=False))["version"] == findings_json.VERSION == 1
    pair = findings_json.__doc__.partition("A pair has")[2]
    for name in (*found["verdicts"][0], *found["verdicts"][0]["directions"][0], *found["verdicts"][0]["interaction"]):
        assert f"`{name}`" in pair, name


def test_the_command_without_a_store_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert page.main([]) == 2
    assert capsys.readouterr().err.startswith("python -m analysis.report: error: there is no MLflow store at ")
    assert not any(tmp_path.iterdir())


def test_the_diagonal_shows_the_plainest_context(table):
    label = labels_of(table)[0]
    row = {"trick": label, "n_seeds": 5, "mean_without": 0.5, "mean_with": 0.6, "low": 0.0, "high": 0.2}
    measured = pd.DataFrame([{**row, "context": "", "effect": 0.10}, {**row, "context": "deferred", "effect": 0.03}])
    cells = heat_map.heat_map_info(table, measured).cells
    assert next(cell.harm for cell in cells if cell.verdict == "alone") == 0.10
