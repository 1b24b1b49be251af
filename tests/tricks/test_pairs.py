"""Every pair of tricks, in one stage and in two: it trains, or it is refused as a `PlanError` before training.

What is refused is foretold here by rules that do not call ours: two tricks on a seam that takes one, or a
capability that is not there. Nothing else may be refused, and nothing may fail later.

    pytest -m slow tests/tricks/test_pairs.py      # every pair; the default run takes a tenth of them
"""

import functools
import itertools
import random
import time
import traceback
from pathlib import Path

import pytest
import torch

from spaces.domain import Space, Stage, trick
from trainables.data import LongTailed, load, standard
from trainables.pipeline.pipeline import Pipeline
from trainables.plan import Plan, build, defaults
from trainables.registry import SEAMS, PlanError, entries, make, names

ALL = names()
COUNTS = (10, 6, 5, 3)
BATCH = 8
LOGIT_HEADS = {
    "cosine": "cosine_head", "experts": "experts", "several experts": "experts", "3 experts": "experts",
}  # fmt: skip
"""Capabilities of a head, and the trick that provides each."""
BESIDE = {"routers": "expert_assignment", "routing loss": "routing_loss", "partner": "weighted_partner"}
"""Capabilities of a stage, and the trick that provides each."""
EVERY = [pytest.param(10, id="sample"), pytest.param(1, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(900)])]


@functools.cache
def data() -> LongTailed:
    """24 images of four digits: three steps of an epoch, two where it is under-sampled; one image of each for val."""
    whole = load("digits-lt", imbalance=10, split_seed=0)

    def some(labels, counts):
        return torch.cat([(labels == label).nonzero()[:count, 0] for label, count in enumerate(counts)])

    train, val = some(whole.train_labels, COUNTS), some(whole.val_labels, (1, 1, 1, 1))
    changed = {
        "classes": 4,
        "class_names": tuple("0123"),
        "train_images": whole.train_images[train],
        "train_labels": whole.train_labels[train],
        "val_images": whole.val_images[val],
        "val_labels": whole.val_labels[val],
    }
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__ if name != "fingerprint"}
    return LongTailed(**fields | changed)


def seam(name):
    return entries()[name].seam


def stage(title, tricks, carry="weights"):
    members = 2 if any(seam(name) == "merge" for name in tricks) else 1
    numbers = {} if carry == "all" else {"lr": 0.01, "batch_size": BATCH}
    return Stage(
        title, epochs=1, carry=carry, members=members, choose=[*with_companions(tricks), *views(tricks)], **numbers
    )


def with_companions(tricks):
    """The tricks with what some need beside them: partners, a loss that their modules learn by."""
    for what, name in BESIDE.items():
        if any(what in entries()[one].needs for one in tricks) and not any(seam(one) == seam(name) for one in tricks):
            tricks = (*tricks, name)
    return tuple(tricks)


def views(tricks):
    """Several views of an image, for tricks that need them."""
    made = [make(name) for name in tricks]
    views = max([getattr(each, "needs_views", 1) for each in made], default=1)
    if views > 1 and "several_views" not in tricks:
        yield trick("several_views", count=views)


def planned(*stages) -> Plan:
    return build(Space(stages=list(stages)), defaults(), standard("digits-lt")).plan


def head_for(*tricks):
    """The head that some tricks need, unless one of them brings it."""
    needed = {LOGIT_HEADS[what] for name in tricks for what in entries()[name].needs if what in LOGIT_HEADS}
    if "experts" in needed:
        needed.discard("cosine_head")  # theirs are cosines as well
    if any(seam(name) == "head" for name in tricks):
        return []
    return sorted(needed - set(tricks))


def network_for(*tricks):
    """Transformer blocks for the trick that has its place in them."""
    place = str(Path(__file__).with_name("transformer.py"))
    return f"{place}:transformer" if "adapt_former" in tricks else "resnet8"


def started(plan, model) -> Pipeline:
    return Pipeline(plan, data(), model, 0, torch.device("cpu"))


@functools.cache
def first_stage(tricks, model):
    """A pipeline's state behind a first stage with these tricks."""
    run = started(planned(stage("first", tricks)), model)
    run.run()
    return run.state()


def trains(first, second, carry) -> bool:
    """Whether the plan is accepted; then it has been trained and measured.

    Raises:
        Exception: It was accepted, and failed in training.
    """
    try:
        plan = planned(stage("first", first), stage("second", second, carry))
    except PlanError as refused:
        assert str(refused).startswith("stage '"), refused
        return False
    model = network_for(*first, *second)
    run = started(plan, model)
    run.load_state(*first_stage(first, model))
    before = run.cost.steps
    run.run()
    assert run.cost.steps - before >= 2
    assert all(tensor.isfinite().all() for tensor in run.network().state_dict().values())
    assert 0 <= run.result()[0]["final/accuracy"] <= 1
    return True


def clash(*tricks):
    """Two tricks on a seam that takes one."""
    return any(
        seam(one) == seam(other) and not SEAMS[seam(one)].many for one, other in itertools.combinations(tricks, 2)
    )


def unmet(first, second, carry):
    """A capability that is not there: a trained network in the first stage, or the kind of the head; images are."""
    if unseen(*first) or unseen(*second):
        return True
    heads = (
        [name for name in first if seam(name) == "head"],
        [name for name in (*first, *second) if seam(name) == "head"],
    )
    for needing, head in zip((first, second), heads, strict=True):
        kind = set(provided(head[-1])) if head else {"linear", "one_head"}
        handed_over = carry == "weights" or any(seam(name) == "merge" for name in first)
        beside = {what for name in needing for what in provided(name)}
        for name in needing:
            there = kind | beside | {"images"} | ({"trained"} if needing is second else set())
            there |= {"teacher"} if needing is second and handed_over else set()
            if not set(entries()[name].needs) <= there:
                return True
    return False


def provided(name):
    """Capabilities, of a head with numbers at their defaults."""
    return getattr(make(name), "provides", entries()[name].provides)


def unseen(*tricks):
    """A view of an image that no trick makes, or several where one is wanted."""
    made = [make(name) for name in tricks]
    views = max([getattr(each, "makes_views", 1) for each in made], default=1)
    needed = max([getattr(each, "needs_views", 1) for each in made], default=1)
    views = views if "several_views" in tricks else needed  # as the companion makes them
    return needed > views or (views > 1 and any(seam(name) == "inside" for name in tricks))


def replaces_branches(first, second):
    """Another head on a network whose branches belong to its head."""
    before = [name for name in first if seam(name) == "head" and "one_head" not in provided(name)]
    return any(seam(name) == "head" and name != before[0] for name in second) if before else False


def changes_a_chain(first, second, carry):
    """A new head, or another choice of what learns, in the middle of a chain; a merge ends the chain before."""
    merged = any(seam(name) == "merge" for name in first)
    return carry == "all" and not merged and any(seam(name) in ("head", "train") for name in second)


def run_all(pairs, title, capsys, carry="weights"):
    """Trains the pairs, compares what is refused with what must be, and prints the counts."""
    began, counts, wrong = time.perf_counter(), {True: 0, False: 0}, []
    for first, second in ((with_companions(one), with_companions(other)) for one, other in pairs):
        refused = clash(*first) or clash(*second) or unmet(first, second, carry)
        refused = refused or changes_a_chain(first, second, carry)
        refused = refused or replaces_branches(first, second)
        try:
            accepted = trains(first, second, carry)
        except Exception:
            wrong.append(f"{first} > {second} failed in training:\n{traceback.format_exc()}")
            continue
        counts[accepted] += 1
        if accepted == refused:
            wrong.append(f"{first} > {second}: {'trained' if accepted else 'refused'}, against the rules")
    with capsys.disabled():
        seconds = time.perf_counter() - began
        print(f"\n{title}: {counts[True]} pairs trained, {counts[False]} refused beforehand, in {seconds:.0f} s")
    assert not wrong, f"{len(wrong)} pairs:\n" + "\n".join(wrong[:10])


def in_one_stage():
    for a, b in itertools.combinations(ALL, 2):
        yield (a, b)
        # chains apply their tricks in written order
        if seam(a) == seam(b) and SEAMS[seam(a)].many:
            yield (b, a)


def some(pairs, share):
    """One in so many of the pairs, the same ones in every run."""
    everything = list(pairs)
    return everything if share == 1 else random.Random(0).sample(everything, len(everything) // share)


@pytest.mark.parametrize("share", EVERY)
def test_in_one_stage(share, capsys):
    """Both in a second stage, so that what needs a trained network finds one; a head comes from the first."""
    pairs = [(tuple(head_for(*with_companions(pair))), pair) for pair in some(in_one_stage(), share)]
    assert {name for _, pair in pairs for name in pair} == set(ALL)
    run_all(pairs, "in one stage", capsys)


@pytest.mark.parametrize("share", EVERY)
@pytest.mark.parametrize("carry", ["weights", "all"])
def test_in_successive_stages(carry, share, capsys):
    """The one in the first stage (with the head that it needs), the other in the second; every order, and twice."""
    pairs = [((*head_for(a), a), (b,)) for a, b in some(itertools.product(ALL, ALL), share)]
    assert {name for pair in pairs for stage in pair for name in stage} == set(ALL)
    run_all(pairs, f"in successive stages, carry={carry!r}", capsys, carry)


def test_the_harness_sees_what_is_wrong(capsys, monkeypatch):
    """A pair that is refused without need, and one that fails in training."""
    with pytest.raises(AssertionError, match=r"1 pairs:\n.*refused, against the rules"):
        monkeypatch.setitem(globals(), "clash", lambda *tricks: False)
        run_all([((), ("focal", "lade"))], "a clash that is not foretold", capsys)
    with pytest.raises(AssertionError, match=r"failed in training:\n(.*\n)*.*ZeroDivisionError"):
        monkeypatch.setattr(Pipeline, "run", lambda self: 1 / 0)
        first_stage.cache_clear()
        run_all([((), ("focal", "ema"))], "a failure", capsys)
