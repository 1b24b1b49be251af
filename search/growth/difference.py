"""What differs between two spaces, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from spaces.domain import DOMAINS, STAGE_NUMBERS, Integer, LogUniform, OneOf, SomeOf, Space, Stage, Trick, Uniform
from trainables.data import Standard
from trainables.plan import default_numbers, options_of, tricks_of

USUAL = "the usual value"
"""What a number is in words that a space does not name."""


def keep_defaults(before: Space, now: Space, standard: Standard) -> Space:
    """A changed space whose open numbers have the defaults that they had before, where these still lie inside.

    The baseline and the cells of the design are trained at the defaults. A range that is widened has another middle,
    and would otherwise bring another baseline.

    Args:
        before: The former space.
        now: The changed one. Defaults that it names itself stay.
        standard: Of the data set.
    """
    former = default_numbers(before, standard)
    kept = {
        name: former[name][1]
        for name, (domain, default) in default_numbers(now, standard).items()
        if name in former and former[name][1] != default and former[name][1] in domain
    }
    return replace(now, defaults=kept | dict(now.defaults)) if kept else now


def differences(before: Space, now: Space) -> list[str]:
    """Everything that differs, one line for each; empty for equal spaces.

    >>> from spaces.domain import Stage, log_uniform, one_of
    >>> def space(high, *tricks):
    ...     stage = Stage("first", epochs=1, lr=log_uniform(0.01, high), choose=[one_of(None, *tricks)])
    ...     return Space([stage], screen=[f"first/{trick}" for trick in tricks])
    >>> for line in differences(space(0.1, "focal"), space(0.3, "focal", "ldam")):
    ...     print(line)
    first/lr: 0.01 … 0.1 log → 0.01 … 0.3 log (wider)
    first/ldam is added
    screen= now has first/ldam
    """
    return list(_lines(before, now))


def _lines(before: Space, now: Space) -> Iterator[str]:
    old, new = _stages(before), _stages(now)
    for name, (stage, position) in new.items():
        if name in old:
            yield from _of_stage(old[name][0], stage)
        else:
            others = [one.name for one in options_of(now.stages[position]) if one is not None and one.name != name]
            yield f"stage {name} is added" + (f", instead of {' or '.join(others)}" if others else "")
    for name in old:
        if name not in new:
            yield f"stage {name} is removed"
    common = [
        [[stage and stage.name for stage in options_of(slot) if stage is None or stage.name in old.keys() & new.keys()]
         for slot in space.stages]
        for space in (before, now)
    ]  # fmt: skip
    if [slot for slot in common[0] if any(slot)] != [slot for slot in common[1] if any(slot)]:
        yield f"the order of the stages: {_slots(before)} → {_slots(now)}"
    yield from _of_list("screen=", before.screen, now.screen)
    rules = [{" and ".join(rule.labels): rule.reason for rule in space.forbid} for space in (before, now)]
    yield from _of_list("forbid=", rules[0], rules[1])
    recipes = [{recipe.name: recipe for recipe in space.recipes} for space in (before, now)]
    yield from _of_list("recipes=", recipes[0], recipes[1])
    changed = [name for name in recipes[0] if name in recipes[1] and recipes[0][name] != recipes[1][name]]
    yield from (f"recipe {name} has other stages" for name in changed)
    values = [dict(space.defaults) for space in (before, now)]
    for name in sorted(values[0].keys() | values[1].keys()):
        if values[0].get(name) != values[1].get(name):
            yield f"{name} is {_shown(values[1].get(name))} in the baseline and the design"
    for name in ("data", "model"):
        if getattr(before, name) != getattr(now, name):
            yield f"{name}=: {getattr(before, name)} → {getattr(now, name)}"


def _stages(space: Space) -> dict[str, tuple[Stage, int]]:
    """Name to stage and the position of its choice."""
    return {
        stage.name: (stage, position)
        for position, slot in enumerate(space.stages)
        for stage in options_of(slot)
        if stage is not None
    }


def _slots(space: Space) -> str:
    return " > ".join(" | ".join("none" if one is None else one.name for one in options_of(s)) for s in space.stages)


def _of_stage(old: Stage, new: Stage) -> Iterator[str]:
    for key in (*STAGE_NUMBERS, "carry", "keep"):
        yield from _of_number(f"{new.name}/{key}", getattr(old, key), getattr(new, key))
    tricks = [{trick.name: trick for trick in tricks_of(stage)} for stage in (old, new)]
    added = [name for name in tricks[1] if name not in tricks[0]]
    removed = [name for name in tricks[0] if name not in tricks[1]]
    yield from (f"{new.name}/{name} is added" for name in added)
    yield from (f"{new.name}/{name} is removed" for name in removed)
    for name, trick in tricks[1].items():
        if name in tricks[0]:
            yield from _of_trick(f"{new.name}/{name}", tricks[0][name], trick)
    if _choices(old, removed) != _choices(new, added):
        yield f"the choices of stage {new.name}: {_choices(old)} → {_choices(new)}"


def _choices(stage: Stage, without: Iterable[str] = ()) -> str:
    """The choices of tricks by their names; those that lose their only trick are no choice."""
    left_out = set(without)
    found = []
    for item in stage.choose:
        options = item.options if isinstance(item, (OneOf, SomeOf)) else (item,)
        names = ["none" if option is None else option.name for option in options]
        names = [name for name in names if name not in left_out]
        if isinstance(item, SomeOf):
            found.append(f"any of {', '.join(names)}" if names else "")
        else:
            found.append(" | ".join(names))
    return "; ".join(text for text in found if text not in ("", "none")) or "none"


def _of_trick(label: str, old: Trick, new: Trick) -> Iterator[str]:
    numbers = [dict(old.numbers), dict(new.numbers)]
    for key in dict.fromkeys((*numbers[0], *numbers[1])):
        yield from _of_number(f"{label}.{key}", numbers[0].get(key), numbers[1].get(key))


def _of_number(name: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield f"{name}: {_shown(old)} → {_shown(new)}{_direction(old, new)}"


def _shown(value: Any) -> str:
    if value is None:
        return USUAL
    return f"{value:g}" if isinstance(value, float) else str(value)


def _direction(old: Any, new: Any) -> str:
    """Whether a range has become wider or narrower, in brackets; "" where it is neither alone."""
    wider, narrower = _holds(new, old), _holds(old, new)
    return f" ({'wider' if wider else 'narrower'})" if wider != narrower else ""


def _holds(whole: Any, part: Any) -> bool:
    """Whether a range or a choice has all values of another one, or the value."""
    if whole is None or part is None:
        return False
    if isinstance(part, OneOf):
        return isinstance(whole, DOMAINS) and all(option in whole for option in part.options)
    if isinstance(part, (Uniform, LogUniform, Integer)):
        return isinstance(whole, (Uniform, LogUniform, Integer)) and part.low in whole and part.high in whole
    return isinstance(whole, DOMAINS) and part in whole


def _of_list(what: str, old: Iterable[str], new: Iterable[str] | Mapping[str, Any]) -> Iterator[str]:
    before, now = list(old), list(new)
    added = [name for name in now if name not in before]
    removed = [name for name in before if name not in now]
    if added:
        yield f"{what} now has {', '.join(added)}"
    if removed:
        yield f"{what} no longer has {', '.join(removed)}"
