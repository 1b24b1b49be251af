"""Which plans the design arm runs: the baseline, every screened label alone, every pair of them.

Adaptive data cannot say which tricks conflict (survivors of TPE and ASHA invent conflicts), so these cells
are fixed beforehand, run over the same seed blocks, never stopped early and never shown to the scheduler.

What a label's 0 level is depends on where it sits:

- a trick of a fixed stage: the stage without it;
- a trick of an optional stage: that stage without it, so all four cells of its pairs have the stage;
- a whole stage: the first option of its choice at the same length; where that is "none", the stage before is
  prolonged by as many epochs, because a trick that adds training must not win by that alone.

So cells carry a **context**: the optional stages that are present (or made up for) in all cells of a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from spaces.domain import OneOf, Space, Stage
from trainables.data import Standard
from trainables.plan import Plan, Recipe, build, defaults, tricks_of
from trainables.registry import PlanError


@dataclass(frozen=True)
class Cell:
    """One cell of the design: labels that are on, in a context.

    Args:
        tricks: Screened labels that are on, sorted.
        context: The optional stages in force, sorted and joined by "+"; "" for none.
        recipe: What is trained.
    """

    tricks: tuple[str, ...]
    context: str
    recipe: Recipe

    @property
    def title(self) -> str:
        """The cell in words: what is on, and what its context adds to the baseline."""
        words = [" + ".join(self.tricks) or "baseline"]
        stages = {stage.name for stage in self.recipe.plan.stages}
        for name in filter(None, self.context.split("+")):
            if not any(f"{trick}/".startswith(f"{name}/") for trick in self.tricks):
                words.append(f"with a plain {name} stage" if name in stages else f"as long as with {name}")
        return ", ".join(words)


@dataclass(frozen=True)
class Impossible:
    """A pair without four cells, and why."""

    a: str
    b: str
    reason: str


@dataclass(frozen=True)
class Home:
    """Where a label sits.

    Args:
        label: The label.
        slot: Position of its choice of stages in the space.
        stage: The stage.
        whole: Whether it is the whole stage.
        added: Whether the stage comes on top, because the first option of its choice is "none".
        optional: Whether the baseline lacks the stage.
    """

    label: str
    slot: int
    stage: Stage
    whole: bool
    added: bool
    optional: bool

    @property
    def context(self) -> str:
        """The stage that all cells of the label's pairs share or make up for; "" for none."""
        return self.stage.name if (self.added if self.whole else self.optional) else ""


@dataclass(frozen=True)
class Design:
    """All cells, baseline first, and the pairs that cannot be had."""

    cells: tuple[Cell, ...]
    impossible: tuple[Impossible, ...]

    @property
    def epochs(self) -> int:
        """Epochs of one seed block without re-use, members multiplied."""
        return sum(cell.recipe.plan.cost for cell in self.cells)


def make_design(space: Space, standard: Standard, epochs_scale: float = 1.0) -> Design:
    """The cells of `space.screen`: baseline, singles and pairs, each once per context.

    Raises:
        PlanError: The baseline or a label alone cannot be trained.
    """
    builder = _Builder(space, standard, epochs_scale)
    homes = [home(space, label) for label in space.screen]
    cells: dict[tuple[str, tuple[str, ...]], Cell] = {}
    impossible: list[Impossible] = []

    def add(found: Iterable[Cell]) -> None:
        for cell in found:
            cells.setdefault((cell.context, cell.tricks), cell)

    add([builder.cell((), ())])
    for one in homes:
        add(builder.cells([one]))
    for a, b in combinations(homes, 2):
        try:
            add(builder.cells([a, b]))
        except PlanError as error:
            first, second = sorted((a.label, b.label))
            impossible.append(Impossible(first, second, str(error)))
    return Design(tuple(cells.values()), tuple(impossible))


def home(space: Space, label: str) -> Home:
    """Where a label of the space sits.

    Raises:
        PlanError: The space has no such label.
    """
    name, _, trick = label.partition("/")
    for position, slot in enumerate(space.stages):
        options = slot.options if isinstance(slot, OneOf) else (slot,)
        for stage in options:
            if stage is None or stage.name != name:
                continue
            if trick and trick not in {known.name for known in tricks_of(stage)}:
                continue
            optional = stage is not options[0]
            return Home(label, position, stage, not trick, options[0] is None, optional)
    raise PlanError(f"no choice of the space has the label {label!r}")


class _Builder:
    def __init__(self, space: Space, standard: Standard, epochs_scale: float) -> None:
        self.space, self.standard, self.scale = space, standard, epochs_scale

    def cells(self, homes: Sequence[Home]) -> Iterator[Cell]:
        """The cells of one label (2) or of a pair (4); all of them, or a `PlanError`."""
        _refuse_exclusive(homes)
        found = [
            self.cell(homes, [h for position, h in enumerate(homes) if levels >> position & 1])
            for levels in range(2 ** len(homes))
        ]
        everything = found[-1]
        labels = sorted(h.label for h in homes)
        if not set(labels) <= set(everything.recipe.labels):
            raise PlanError(f"{' and '.join(labels)} are options of one choice: a plan has one of them")
        yield from found

    def cell(self, homes: Sequence[Home], on: Sequence[Home]) -> Cell:
        """The cell of some labels with those in `on` switched on."""
        off = [h for h in homes if h not in on]
        shared = {h.stage.name for h in homes if h.context and not h.whole}
        pick = defaults([*(h.label for h in on), *shared], [h.label for h in off if not h.whole])
        recipe = build(self.space, pick, self.standard, self.scale)
        for absent in off:
            if absent.whole and absent.added:
                recipe = replace(recipe, plan=self._prolonged(recipe.plan, absent))
        context = "+".join(sorted({h.context for h in homes} - {""}))
        return Cell(tuple(sorted(h.label for h in on)), context, recipe)

    def _prolonged(self, plan: Plan, absent: Home) -> Plan:
        """The plan with the stage before the absent one made longer by the epochs that are missing."""
        with_it = build(self.space, defaults([absent.label]), self.standard, self.scale).plan
        extra = next(stage.epochs for stage in with_it.stages if stage.name == absent.stage.name)
        names = [stage.name for stage in with_it.stages]
        before = max(0, names.index(absent.stage.name) - 1)
        stages = list(plan.stages)
        stages[before] = replace(stages[before], epochs=stages[before].epochs + extra)
        return Plan(tuple(stages))


def _refuse_exclusive(homes: Sequence[Home]) -> None:
    for a, b in combinations(homes, 2):
        if a.slot == b.slot and a.stage.name != b.stage.name:
            raise PlanError(f"{a.stage.name} and {b.stage.name} are options of one choice: a plan has one of them")
        if a.stage.name == b.stage.name and a.whole != b.whole:
            whole, part = (a, b) if a.whole else (b, a)
            raise PlanError(f"{part.label} does not exist without {whole.label}: there is no cell with it alone")
