"""Records of a small search whose names are given, for tests of what reaches a person's eyes."""

import dataclasses
import itertools

from analysis.records.schema import Point, Record

PLAIN = ("mixup", "sampling", "weighting", "focal", "finish", "network", "data", "demo", "why", "kind")

HOSTILE = (
    "</script><script>alert(1)</script>", "=HYPERLINK(1)", "[v2] [/red] :smile:", "a|b *c* _d_ `e` ~~f~~",
    "\x1b]0;title\x07\x1b[31mred", "\u202egnp.exe \u2066", "$(touch x) `id` $\\frac{$", '" onload="x" \' &lt; &amp;',
    "<img src=x onerror=alert(2)>", "+cmd|' /C calc'!A0 http://x.y www.x.y",
)  # fmt: skip
"""One for each of `PLAIN`: what would act in a browser, a spreadsheet, rich, Markdown, a terminal, a shell."""


def records(names: tuple[str, ...] = HOSTILE) -> list[Record]:
    """Every arm of a search: design, check, adaptive with stops, race, confirmation, around, nominated, and a failure.

    Args:
        names: As many as in `PLAIN`.
    """
    one, two, three, four, stage, model, data, search, reason, kind = names
    made: list[Record] = []

    def add(arm: str, tricks: tuple[str, ...], seed: int, accuracy: float, **changes: object) -> None:
        fields = {
            "search": search, "trial": f"{search}{len(made)}", "arm": arm, "recipe": f"{kind}{'-'.join(tricks)}",
            "title": " + ".join(tricks) or "baseline", "seed": seed, "split_seed": seed,
            "first_stage": f"{tricks}{seed}{arm}", "tricks": tricks, "context": "", "outcome": "finished",
            "choices": {
                "stages": f"{stage} > {stage}2", f"{stage}/lr": 0.1 + 0.01 * (len(made) % 3),
                f"{stage}/{kind}": kind if tricks else None,
            },
            "plan": {}, "data": data, "model": model, "imbalance": 50.0, "fingerprint": data, "counts": (100, 2),
            "val_counts": (60, 60), "epochs": 4.0, "epochs_trained": 3.0, "images": 528, "steps": 8, "seconds": 2.0,
            "seconds_saved": 0.5, "reused": (stage,), "recalls": (accuracy, accuracy / 2),
            "families": dict.fromkeys(tricks, kind),
            "metrics": {
                "final/accuracy": accuracy, "final/few": accuracy / 2, "final/smoothed_harmonic_mean": accuracy / 3,
                "final/harmonic_mean": accuracy / 3,
            },
            "curve": (Point(stage, 0, 4, 1.0, {"accuracy": accuracy}),), "started": float(len(made)),
        }  # fmt: skip
        made.append(Record(**{**fields, **changes}))

    cells = {
        (): 0.6,
        (one,): 0.75,
        (two,): 0.74,
        (three,): 0.61,
        (one, two): 0.5,
        (one, three): 0.75,
        (two, three): 0.74,
    }

    def four_cells(arm: str, pair: tuple[str, str], first: int, **changes: object) -> None:
        chosen: dict[tuple[str, ...], float] = {(): 0.6, pair[:1]: 0.75, pair[1:]: 0.74, pair: 0.5}
        for seed, (index, (tricks, mean)) in itertools.product(range(4), enumerate(chosen.items())):
            add(arm, tricks, first + seed, mean + 0.004 * ((seed * 7 + index * 3) % 5), **changes)

    for seed, (index, (tricks, mean)) in itertools.product(range(5), enumerate(cells.items())):
        add("design", tricks, seed, mean + 0.004 * ((seed * 7 + index * 3) % 5))
    four_cells("check", (one, two), 0, setting="lr/3")
    four_cells("nominated", (one, four), 300, context="nominated:x")
    for seed, (tricks, mean) in itertools.product(range(3), cells.items()):
        add("race", tricks, 100 + seed, mean + 0.01 * seed)
    for seed, tricks in itertools.product(range(3), ((), (one,))):
        add("confirm", tricks, 500 + seed, cells[tricks] + 0.01 * seed)
        made[-1] = dataclasses.replace(made[-1], metrics=made[-1].metrics | {"test/accuracy": cells[tricks]})
    for seed, tricks in itertools.product(range(3), ((), (one,), (three,), (one, three))):
        add("around", tricks, 900 + seed, cells[tricks] + 0.003 * seed, context="around:w")
    stop = {"rung": 0.5, "score": kind, "value": 0.61, "cut": 0.7, "among": 7, "cohort": [stage, one]}
    add("adaptive", (one,), 700, 0.7)
    add("adaptive", (one,), 701, 0.3, outcome="stopped", stop=stop, reason=reason)
    add("adaptive", (two,), 702, 0.3, outcome="stopped", reason=reason)
    add("adaptive", (two,), 703, 0.3, outcome="failed", reason=reason)
    return made
