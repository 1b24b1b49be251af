"""The comparison of tables with blocks that they have not seen, where the truth is known."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def script(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_five_blocks_cover_the_others_as_often_as_they_say():
    truth, held_out = script("conflict_truth"), script("held_out")
    inside = []
    for seed in range(10):  # blocks of one search are the same in all of its draws
        world = truth.WORLDS[4]
        trials = truth.frame(world, truth.simulate(world, 13, np.random.default_rng(seed))[0])
        found = held_out.compare(trials, 5, 3, truth.MARGIN, seed)
        inside += [each for tally in found.contrasts.values() for each in tally.inside]
        assert len(found.settled) == 3
    assert len(inside) == 10 * 3 * 15 * 5
    assert 0.93 < np.mean(inside) < 0.97


def test_a_comparison_by_hand(capsys):
    held_out = script("held_out")
    row = {"verdict": "compatible", "n_seeds": 4, "b_given_a_verdict": "helps", "a_given_b_verdict": "unknown"}
    numbers = dict.fromkeys(held_out.CONTRASTS, 0.03) | {f"{name}_se": 0.01 for name in held_out.CONTRASTS}
    numbers |= {f"{name}_df": 8.0 for name in held_out.CONTRASTS}
    # t(8) at 97.5 % is 2.306: the table's interval is ± 2.306 points, that of 2 other blocks' mean ± 2.306 · √3 = 3.994
    others = [{"n_seeds": 2} | dict.fromkeys(held_out.CONTRASTS, value) for value in (-0.0099, -0.0101)]
    found = held_out.Comparison()
    for other in others:
        found.add(pd.DataFrame([row | numbers]), pd.DataFrame([other]))
    assert found.contrasts["interaction"].inside == [True, False]
    assert found.contrasts["alone_a"].widths == pytest.approx([0.02306, 0.02306], abs=1e-5)
    assert found.directions["helps"] == [-0.0099, -0.0101] and found.settled == [(1, 1), (1, 1)]
    held_out.report(found, 0.02)
    assert "| helps | 2 | 100.0 | - |" in capsys.readouterr().out
