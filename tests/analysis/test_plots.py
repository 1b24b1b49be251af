"""What the figures beyond the conflict table hold: shares, removals, the path, the front, the heat map as a picture."""

import math
import struct

import pandas as pd
import pytest

from analysis.formatting import VERDICTS
from analysis.records.schema import ARMS
from analysis.report.plots import curves, forest_plots
from analysis.report.plots.heat_map_picture import heat_map_png

A, B, C = "train/mixup", "later/focal", "train/cost"


def pair(a: str, b: str, verdict: str, harm: float = -0.01) -> dict:
    numbers = {f"{n}{end}": harm for n in ("b_given_a", "a_given_b", "interaction") for end in ("", "_low", "_high")}
    return {"a": a, "b": b, "verdict": verdict, "action": "", "n_seeds": 5, "primary": False} | numbers


def test_every_verdict_is_drawn_with_a_shape_of_its_own():
    drawn = [name for name in VERDICTS if name != "not applicable"]
    rows = pd.DataFrame([pair(f"a{index}", f"b{index}", name) for index, name in enumerate(VERDICTS)])
    figure = forest_plots.pairs(rows)
    assert [trace.name for trace in figure.data] == [f"{VERDICTS[name].sign} {VERDICTS[name].name}" for name in drawn]
    assert len({trace.marker.symbol for trace in figure.data}) == len(drawn)
    assert sum(len(trace.x) for trace in figure.data) == 2 * len(drawn), "both directions of every pair"
    # filled: something is known
    assert {trace.name for trace in figure.data if "open" in trace.marker.symbol} == {"? not known yet"}


def test_removals_are_sorted_by_what_is_lost():
    table = pd.DataFrame(
        {
            "removed": [(A,), (B,), (A, B)], "loss": [0.01, 0.03, 0.06], "loss_low": [-0.01, 0.01, 0.05],
            "loss_high": [0.03, 0.05, 0.07], "n_seeds": [5, 5, 5], "word": ["unknown", "needed", "needed"],
        }
    )  # fmt: skip
    bars = forest_plots.removals_info(table)
    assert [bar.name for bar in bars] == ["without mixup and focal", "without focal", "without mixup"]
    assert (bars[1].value, bars[1].low, bars[1].high, bars[1].kind) == (-0.03, -0.05, -0.01, "needed")
    figure = forest_plots.removals(table, 0.02)
    assert {trace.name for trace in figure.data} == {"needed", "unknown"}


def test_the_path_starts_at_the_baseline():
    table = pd.DataFrame(
        {
            "step": [0, 1, 2], "added": [(), (A,), (B, C)], "mean": [0.6, 0.7, 0.72], "low": [0.58, 0.69, 0.7],
            "high": [0.62, 0.71, 0.74], "gain": [math.nan, 0.1, 0.02], "gain_low": [math.nan, 0.08, 0.0],
            "gain_high": [math.nan, 0.12, 0.04],
        }
    )  # fmt: skip
    steps = forest_plots.path_info(table)
    assert [step.name for step in steps] == ["baseline", "+ mixup", "+ focal + cost"]
    assert [step.gain for step in steps] == ["", "+10.0 (+8.0 to +12.0)", "+2.0 (0.0 to +4.0)"]
    figure = forest_plots.path(table)
    assert list(figure.data[0].x) == [60, 70, 72] and list(figure.data[0].y) == [2, 1, 0]


def test_the_front_marks_its_knee_and_its_bars_are_the_intervals():
    table = pd.DataFrame(
        {
            "title": ["x", "y", "z"], "accuracy": [0.9, 0.8, 0.7], "accuracy_low": [0.8, 0.7, math.nan],
            "accuracy_high": [1.0, 0.9, math.nan], "harmonic_mean": [0.5, 0.7, 0.4],
            "harmonic_mean_low": [0.0, 0.6, math.nan], "harmonic_mean_high": [0.9, 0.8, math.nan],
            "on_front": [True, True, False], "knee": [False, True, False],
        }
    )  # fmt: skip
    assert [trade.kind for trade in curves.front_info(table)] == ["front", "knee", "beaten"]
    figure = curves.front(table)
    on = next(trace for trace in figure.data if trace.name == "on the front")
    assert on.error_x.array == pytest.approx((10,)) and on.error_y.arrayminus == pytest.approx((50,))
    assert "90.0 % (80.0 to 100.0)" in on.customdata[0]
    assert list(figure.data[0].x) == [80, 90]


def test_the_heat_map_is_also_a_picture():
    table = pd.DataFrame(
        [pair(A, B, "conflict"), pair(A, C, "not applicable", math.nan), pair(B, C, "unresolved", 0.02)]
    )
    picture = heat_map_png(table, title="digits-lt")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert 400 < width < 2000 and 300 < height < 1500
    assert picture != heat_map_png(table.assign(verdict="compatible"), title="digits-lt")


def test_every_arm_has_a_mark_of_its_own():
    looks = [(curves.MARKERS[arm], curves.COLOURS[arm]) for arm in ARMS]
    assert len(set(looks)) == len(ARMS)
