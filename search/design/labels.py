"""Which plans the design arm runs, and how often: the cells from which conflicts are judged.

Adaptive data cannot say which tricks conflict (survivors of TPE and ASHA invent conflicts), so these cells
are fixed beforehand, run over the same seed blocks, never stopped early and never shown to the scheduler.

Three kinds of design:

- **pairs**, the default: the baseline, every screened label alone, every pair of them;
- **factorial**: a fraction of all combinations of the labels that can be freely crossed, in which no effect and no
  pair is aliased with another effect or pair (`fractional_factorial`); every run serves every pair. It is
  exploratory: it takes interactions of three tricks to be nothing, and where they are not, verdicts are wrong more
  often than promised.
  Labels that cannot be crossed with all the others keep the cells of their pairs;
- **list:FILE**: cells written by hand.

Recipes that the space names (`Space(recipes=[…])`) are cells of every design, beside the plain baseline.

What a label's 0 level is depends on where it sits:

- a trick of a fixed stage: the stage without it;
- a trick of an optional stage: that stage without it, so all four cells of its pairs have the stage;
- a whole stage: the first option of its choice at the same length; where that is "none", the stage before is
  prolonged by as many epochs, because a trick that adds training must not win by that alone.

So cells carry a **context**: the optional stages that are present (or made up for) in all cells of a pair; in a
factorial and in a list those of all its labels. Cells are compared within one context only, hence a factorial's
begins with the word "factorial": cells of other pairs beside it would unbalance the fraction.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import yaml

from analysis.records.schema import RECIPE
from search.design.fractional_factorial import MOST, Fraction, fraction
from spaces.domain import OneOf, Space, Stage
from trainables.data import Standard
from trainables.plan import Plan, Recipe, build, check_space, defaults, tricks_of
from trainables.registry import PlanError, did_you_mean

FACTORIAL = "factorial"
"""First word of the context of a factorial's cells."""

PAIR = re.compile(r"\s*×\s*|\s+x\s+")
"""Between the two labels of a pair."""

BASELINE_CELL = ("", "baseline")
"""How a list names the cell with nothing on."""


class DesignError(ValueError):
    """A design that cannot be made as asked."""


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
        for name in self.context.split("+"):
            if name in ("", FACTORIAL):
                continue
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
    """What the design arm runs.

    Args:
        cells: All cells, baseline first.
        impossible: Pairs that cannot be judged, and why.
        kind: "pairs", "factorial" or "list".
        fraction: Of a factorial.
        primary: Pairs declared beforehand, each with its smaller label first.
        pairs: Pairs that can be judged, likewise.
    """

    cells: tuple[Cell, ...]
    impossible: tuple[Impossible, ...]
    kind: str = "pairs"
    fraction: Fraction | None = None
    primary: tuple[tuple[str, str], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def epochs(self) -> int:
        """Epochs of one seed block without re-use, members multiplied."""
        return sum(cell.recipe.plan.cost for cell in self.cells)

    def runs(self, seeds: int) -> list[tuple[int, Cell]]:
        """(block, cell) of every trial in the order in which they should run.

        Block by block: a search that is cut has fewer blocks, not missing cells.

        Args:
            seeds: Blocks of every cell, at least 0.
        """
        return [(block, cell) for block in range(seeds) for cell in self.cells]


def make_design(
    space: Space,
    standard: Standard,
    epochs_scale: float = 1.0,
    *,
    kind: str | None = None,
    primary: Iterable[str] = (),
) -> Design:
    """The cells of the design arm.

    Args:
        space: The space; its `screen=` names the labels.
        standard: Of the data set.
        epochs_scale: Multiplies every stage's epochs.
        kind: "pairs", "factorial" or "list:FILE" (default: pairs).
        primary: Pairs declared beforehand, "a×b" or "a x b"; the others are explored.

    Raises:
        DesignError: Another kind, a list that cannot be read, or a primary pair that the design cannot judge.
        PlanError: The baseline or a label alone cannot be trained.
    """
    name, _, file = (kind or "").partition(":")
    if name not in ("", "pairs", FACTORIAL, "list") or (name == "list") != bool(file):
        known = ("pairs", FACTORIAL, "list:FILE")
        near = difflib.get_close_matches(str(kind), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DesignError(f"--design {kind}: {hint}allowed are {', '.join(known)}")
    builder = _Builder(space, standard, epochs_scale)
    declared = tuple(dict.fromkeys(pair_of(text) for text in primary))
    if name == "list":
        made = _listed(builder, Path(file), check_space(space, standard))
    else:
        homes = [home(space, label) for label in space.screen]
        crossed = _crossed(builder, homes, declared) if name == FACTORIAL else ()
        if name == FACTORIAL and not crossed:
            raise DesignError(
                f"--design {FACTORIAL}: no two of the {len(homes)} labels of screen= can be freely crossed; "
                "use --design pairs"
            )
        made = _paired(builder, homes, crossed)
    made = replace(made, cells=(*made.cells, *builder.written()))
    _check_primary(declared, made)
    return replace(made, primary=declared)


def pair_of(text: str) -> tuple[str, str]:
    """A pair from "a×b" or "a x b", the smaller label first.

    Raises:
        DesignError: It is no pair of two different labels.

    >>> pair_of("first/mixup x classifier")
    ('classifier', 'first/mixup')
    """
    labels = [part.strip() for part in PAIR.split(text.strip())]
    if len(labels) != 2 or not all(labels) or labels[0] == labels[1]:
        raise DesignError(
            f"--primary: {text.strip()!r} is not a pair of two different labels; write a×b or 'a x b', pairs separated "
            "by commas"
        )
    first, second = sorted(labels)
    return first, second


def _check_primary(primary: Iterable[tuple[str, str]], design: Design) -> None:
    labels = sorted({label for pair in (*design.pairs, *((p.a, p.b) for p in design.impossible)) for label in pair})
    reasons = {(pair.a, pair.b): pair.reason for pair in design.impossible}
    for pair in primary:
        for label in pair:
            if label not in labels:
                where = "the list of cells" if design.kind == "list" else "screen="
                raise DesignError(f"--primary: no label {label!r} in {where}: {did_you_mean(label, labels)}")
        if pair in reasons:
            raise DesignError(f"--primary: {pair[0]} × {pair[1]} cannot be judged: {reasons[pair]}")


def _paired(builder: _Builder, homes: Sequence[Home], crossed: Sequence[Home]) -> Design:
    """The fraction of the labels that are crossed, and the cells of all other pairs."""
    cells: dict[tuple[str, tuple[str, ...]], Cell] = {}
    impossible: list[Impossible] = []
    pairs: list[tuple[str, str]] = []

    def add(found: Iterable[Cell]) -> None:
        for cell in found:
            cells.setdefault((cell.context, cell.tricks), cell)

    inside = {h.label for h in crossed}
    for one in homes:
        if one.label not in inside:
            add(builder.cells([one]))
    for a, b in combinations(homes, 2):
        first, second = sorted((a.label, b.label))
        if not {a.label, b.label} <= inside:
            try:
                add(builder.cells([a, b]))
            except PlanError as error:
                impossible.append(Impossible(first, second, str(error)))
                continue
        pairs.append((first, second))
    made = fraction([h.label for h in crossed]) if crossed else None
    fractional = []
    if made is not None:
        by_label = {h.label: h for h in crossed}
        fractional = [builder.cell(crossed, [by_label[label] for label in run]) for run in made.runs]
    baseline = cells.pop(("", ()), None) or builder.cell((), ())
    # where nothing else is compared with the plain baseline, the fraction's own is it
    alone = not any(cell.context == "" for cell in cells.values())
    if not (alone and fractional and fractional[0].recipe.plan.id == baseline.recipe.plan.id):
        fractional.insert(0, baseline)
    fractional = [
        cell
        if position == 0 and cell is baseline
        else replace(cell, context="+".join(filter(None, (FACTORIAL, cell.context))))
        for position, cell in enumerate(fractional)
    ]
    return Design(
        (*fractional, *cells.values()),
        tuple(impossible),
        FACTORIAL if made is not None else "pairs",
        made,
        pairs=tuple(sorted(pairs)),
    )


def _crossed(builder: _Builder, homes: Sequence[Home], primary: Collection[tuple[str, str]]) -> tuple[Home, ...]:
    """The largest set of labels all of whose combinations can be trained; empty for none.

    Ties go to most primary pairs, then to fewest optional stages, then to the first in the order of the space.
    """
    bad: list[frozenset[str]] = []
    for size in range(min(len(homes), MOST), 1, -1):

        def order(some: tuple[Home, ...]) -> tuple[int, int]:
            labels = {h.label for h in some}
            return -sum(set(pair) <= labels for pair in primary), len({h.context for h in some} - {""})

        for some in sorted(combinations(homes, size), key=order):
            labels = {h.label for h in some}
            if any(together <= labels for together in bad):
                continue
            refused = _uncrossable(builder, some)
            if refused is None:
                return some
            bad.append(refused)
    return ()


def _uncrossable(builder: _Builder, homes: Sequence[Home]) -> frozenset[str] | None:
    """The first combination of labels that cannot be trained as it is meant, small ones first."""
    for a, b in combinations(homes, 2):
        try:
            _refuse_exclusive([a, b])
        except PlanError:
            return frozenset((a.label, b.label))
    for levels in sorted(product((False, True), repeat=len(homes)), key=sum):
        on = [h for h, level in zip(homes, levels, strict=True) if level]
        if not builder.has(homes, on):
            return frozenset(h.label for h in on)
    return None


# --- cells by hand ----------------------------------------------------------------------------------------


def _listed(builder: _Builder, file: Path, known: Sequence[str]) -> Design:
    """The cells that a file lists, and the pairs that they can judge."""
    cells: dict[tuple[str, tuple[str, ...]], Cell] = {}
    reasons: dict[tuple[str, str], str] = {}
    pairs: set[tuple[str, str]] = set()
    for group in read_list(file):
        labels = sorted({label for _, cell in group for label in cell})
        for where, cell in group:
            for label in cell:
                if label not in known:
                    raise DesignError(f"{where}: no label {label!r} in the space: {did_you_mean(label, known)}")
        if not any(not cell for _, cell in group):
            raise DesignError(f"{group[0][0]}: the baseline is not among the cells; add a line baseline")
        homes = {label: home(builder.space, label) for label in labels}
        try:
            _refuse_exclusive(list(homes.values()))
        except PlanError as error:
            raise DesignError(
                f"{group[0][0]}: {error}; put them into groups of their own, separated by a line ---"
            ) from error
        for where, on in group:
            try:
                found = builder.checked(list(homes.values()), [homes[label] for label in on])
            except PlanError as error:
                raise DesignError(f"{where}: {' + '.join(on) or 'baseline'} cannot be trained: {error}") from error
            cells.setdefault((found.context, found.tricks), found)
        for a, b in combinations(labels, 2):
            reasons[a, b] = lacking({frozenset(cell) for _, cell in group}, a, b)
            if not reasons[a, b]:
                pairs.add((a, b))
    # the search's baseline is the plain one
    baseline = cells.pop(("", ()), None) or builder.cell((), ())
    return Design(
        (baseline, *cells.values()),
        tuple(Impossible(a, b, why) for (a, b), why in sorted(reasons.items()) if (a, b) not in pairs),
        "list",
        pairs=tuple(sorted(pairs)),
    )


def lacking(cells: Collection[frozenset[str]], a: str, b: str) -> str:
    """What keeps cells from judging a pair: "" if nothing does.

    Judged are four cells that are equal in all other tricks, or as many of each kind whose other tricks occur
    equally often, alone and in pairs, as in a fraction.

    >>> lacking([frozenset(), frozenset("a"), frozenset("ab")], "a", "b")
    'the list has no cell with b without a'
    """
    kinds: dict[frozenset[str], list[frozenset[str]]] = {
        frozenset(): [], frozenset({a}): [], frozenset({b}): [], frozenset({a, b}): [],
    }  # fmt: skip
    for cell in cells:
        kinds[cell & {a, b}].append(cell - {a, b})
    names = (f"neither {a} nor {b}", f"{a} without {b}", f"{b} without {a}", f"{a} and {b} together")
    absent = [name for name, others in zip(names, kinds.values(), strict=True) if not others]
    if absent:
        return f"the list has no cell with {', nor with '.join(absent)}"
    if frozenset.intersection(*(frozenset(others) for others in kinds.values())):
        return ""
    labels = sorted({label for cell in cells for label in cell} - {a, b})
    moments = [
        (len(others), [sum({c, d} <= other for other in others) for c in labels for d in labels])
        for others in kinds.values()
    ]
    if all(moment == moments[0] for moment in moments):
        return ""
    return "its four cells never have the same other tricks"


def read_list(file: Path) -> list[list[tuple[str, tuple[str, ...]]]]:
    """Groups of cells, each cell with the place where it stands.

    A text or CSV file has one cell a line, its labels joined by + or commas, "baseline" (or an empty line) for none;
    what follows a # is left out, and a line --- begins another group, compared within itself only. A YAML file has a
    list of cells, each a text or a list of labels, in one document for each group.

    Raises:
        DesignError: The file cannot be read, holds no cell, or names a label or a cell twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DesignError(f"--design list:{file}: cannot read the file ({why})") from error
    read = _yaml_cells if file.suffix.lower() in (".yaml", ".yml") else _text_cells
    groups = [group for group in read(file, text) if group]
    if not groups:
        raise DesignError(f"--design list:{file}: the file lists no cell; write one a line, labels joined by +")
    for group in groups:
        seen: dict[tuple[str, ...], str] = {}
        for where, cell in group:
            if len(set(cell)) != len(cell):
                raise DesignError(f"{where}: a label stands twice in {' + '.join(cell)}")
            if cell and cell in seen:
                raise DesignError(f"{where}: {' + '.join(cell)} is there already, at {seen[cell]}; remove one")
            seen[cell] = where
    return groups


def _text_cells(file: Path, text: str) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    group: list[tuple[str, tuple[str, ...]]] = []
    for number, line in enumerate(text.rstrip().splitlines(), start=1):
        bare = line.split("#")[0].strip()
        if bare.startswith("---"):
            yield group
            group = []
        elif bare or not line.strip():
            group.append((f"{file}, line {number}", _labels(bare)))
    yield group


def _yaml_cells(file: Path, text: str) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise DesignError(f"--design list:{file}: not YAML ({' '.join(str(error).split())})") from error
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, list):
            raise DesignError(f"--design list:{file}: expected a list of cells, got {document!r}")
        group = []
        for number, cell in enumerate(document, start=1):
            if not (cell is None or isinstance(cell, str) or _is_labels(cell)):
                raise DesignError(f"{file}, cell {number}: expected labels joined by + or a list of them, got {cell!r}")
            joined = "+".join(cell) if isinstance(cell, list) else cell or ""
            group.append((f"{file}, cell {number}", _labels(joined)))
        yield group


def _is_labels(cell: object) -> bool:
    return isinstance(cell, list) and all(isinstance(label, str) for label in cell)


def _labels(text: str) -> tuple[str, ...]:
    if text.strip() in BASELINE_CELL:
        return ()
    return tuple(sorted(filter(None, (label.strip() for label in re.split(r"[+,;]", text)))))


# --- where labels sit -------------------------------------------------------------------------------------


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


def four_cells(
    space: Space, standard: Standard, epochs_scale: float, pair: tuple[str, str], crossed: Sequence[str] = ()
) -> tuple[Cell, ...]:
    """The four cells of a pair: neither, each alone, both.

    Args:
        space: The space.
        standard: Of the data set.
        epochs_scale: Multiplies every stage's epochs.
        pair: Two labels of the space.
        crossed: Labels of a factorial: a pair of them has the factorial's context, all others off.

    Raises:
        PlanError: They cannot be crossed.
    """
    builder = _Builder(space, standard, epochs_scale)
    if not set(pair) <= set(crossed):
        return tuple(builder.cells([home(space, label) for label in pair]))
    homes = [home(space, label) for label in crossed]
    cells = []
    for levels in range(4):
        on = [h for h in homes if h.label in pair and levels >> pair.index(h.label) & 1]
        cell = builder.cell(homes, on)
        cells.append(replace(cell, context="+".join(filter(None, (FACTORIAL, cell.context)))))
    return tuple(cells)


class _Builder:
    def __init__(self, space: Space, standard: Standard, epochs_scale: float) -> None:
        self.space, self.standard, self.scale = space, standard, epochs_scale

    def written(self) -> Iterator[Cell]:
        """The recipes that the space names, each a cell beside the plain baseline."""
        for named in self.space.recipes:
            yield Cell((RECIPE + named.name,), "", build(Space(named.stages), defaults(), self.standard, self.scale))

    def cells(self, homes: Sequence[Home]) -> Iterator[Cell]:
        """The cells of one label (2) or of a pair (4); all of them, or a `PlanError`."""
        _refuse_exclusive(homes)
        yield from [
            self.checked(homes, [h for position, h in enumerate(homes) if levels >> position & 1])
            for levels in range(2 ** len(homes))
        ]

    def checked(self, homes: Sequence[Home], on: Sequence[Home]) -> Cell:
        """The cell of some labels, if what is on is on in its plan."""
        cell = self.cell(homes, on)
        if not set(cell.tricks) <= set(cell.recipe.labels):
            raise PlanError(f"{' and '.join(cell.tricks)} are options of one choice: a plan has one of them")
        return cell

    def has(self, homes: Sequence[Home], on: Sequence[Home]) -> bool:
        """Whether some labels can be on and the others off."""
        try:
            cell = self.cell(homes, on)
        except PlanError:
            return False
        return set(cell.recipe.labels) & {h.label for h in homes} == set(cell.tricks)

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
