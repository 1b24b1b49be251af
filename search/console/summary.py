"""Prints the results of a search when it ends, writes its report, and says where to look next."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import files
from analysis.conflicts import effects, verdict_table
from analysis.conflicts.other_searches import compare
from analysis.console import styled
from analysis.formatting import (
    DIRECTION_NAMES,
    VERDICTS,
    cost_of_the_rest,
    labels_of,
    p_text,
    percent_span,
    plus_minus,
    points,
    seeds,
    settled,
    short,
    span,
    worse_harm,
)  # fmt: skip
from analysis.records import mlflow_store, reader
from analysis.records.schema import BASELINE, NUMBERS, NUMBERS_IN_WORDS
from analysis.report import cards, page
from analysis.report.context import classes_judged
from analysis.report.findings import Findings, gather
from analysis.report.health import warnings
from analysis.text import command, markdown_cell, option, sentence
from search import mlflow_tracker

if TYPE_CHECKING:
    from search.outcome import SearchResult
    from search.settings import Settings

NARROW = 22
"""Letters of a name that fit next to the numbers in a terminal of 80 columns."""

DECLARED = "declared"
"""Mark of a primary pair."""


def health(trials: pd.DataFrame, margin: float, winner: str | None, space_changes: str = "") -> tuple[str, ...]:
    """Reasons not to believe the search, whole sentences; that its space was changed after looking is the first."""
    try:
        alone = effects(trials)
    except ValueError:
        alone = None  # there is no design arm to judge, which is said where the table would stand
    if not len(trials):
        return ()
    part = classes_judged(trials)
    changes = [space_changes] if space_changes else []
    return (*changes, *warnings(trials, alone, margin, winner=winner), *([f"{part}."] if part else []))


def conflict_table(
    console: Console, trials: pd.DataFrame, margin: float, primary: Sequence[str] = (), further: Sequence[int] = ()
) -> pd.DataFrame | None:
    """The table of pairs; where the design arm cannot be judged, the reason is printed and there is none."""
    try:
        return verdict_table(trials, margin=margin, primary=primary, firsts=further)
    except ValueError as error:
        console.print(styled(f"No conflict table: {sentence(error)}", "yellow"), soft_wrap=True)
        return None


def show_notes(console: Console, data: str, notes: Sequence[str]) -> None:
    """Prints what a data set left out or assumed, so that no result is taken for one on all of its images."""
    if notes:
        console.print(styled(f"Data: {data}", "bold yellow"), soft_wrap=True)
        for note in notes:
            console.print(styled(f"  {sentence(note)}", "yellow"), soft_wrap=True)


def show(
    console: Console,
    result: SearchResult,
    uri: str,
    settings: Settings,
    settling: bool = False,
    used_up: str = "",
    notes: Sequence[str] = (),
    arm: Sequence[str] = (),
) -> None:
    """Prints the best recipe, the conflicts and where to look next.

    Args:
        console: Rich console for user-facing output.
        result: Result of the search.
        uri: MLflow store.
        settings: Settings of the search.
        settling: Whether it was cut off while it ran further blocks (`--settle`).
        used_up: Options that grant again the budgets that are used up.
        notes: What the data left out or assumed.
        arm: Why the adaptive arm ended early, and what became of the epochs that this saved.
    """
    console.print()
    if result.best is not None:
        console.print(_best(result.best))
    for warning in result.health:
        console.print(styled(sentence(f"Before you believe it: {warning}"), "yellow"), soft_wrap=True)
    if result.conflicts is not None and len(result.conflicts):
        console.print(_conflicts(result.conflicts, result.trials, console.width))
        written = [name for name in ("conflicts.csv", "report.html") if (result.folder / name).is_file()]
        have = f" All numbers are in {' and '.join(written)}." if written else ""
        console.print(
            "The numbers are percentage points of accuracy on val; ± is the 95 % interval over seed blocks. A verdict "
            f"holds at this length of training, for this data and network.{_marks(result.conflicts)}{have}",
            style="dim", highlight=False,
        )  # fmt: skip
        rest = cost_of_the_rest(result.conflicts, result.trials)
        console.print(styled(f"{settled(result.conflicts)} {rest}".rstrip()), soft_wrap=True)
        for line in further_steps(result.conflicts, settings, settling, result.complete):
            console.print(styled(line), soft_wrap=True)
    elif result.conflicts is not None:
        console.print("No conflict table: the space screens no pair (screen= names fewer than two labels).")
    for line in _tables(result.tables):
        console.print(styled(line))
    if arm:
        more = resume_command(settings, "--trials", "+50")
        console.print(styled(f"\n{' '.join(arm)} To propose further:\n  {more}"), soft_wrap=True)
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.phase_seconds.items() if name != "done")
    epochs, seconds = result.saved
    console.print(
        f"\nTime: {phases or 'nothing ran'}. Re-use saved {epochs:.0f} epochs, {seconds:.0f} s of training.",
        highlight=False,
    )
    show_notes(console, settings.data, notes)
    if not result.complete:
        console.print(styled(how_to_resume(settings, settling, used_up), "bold yellow"), soft_wrap=True)
    console.print("\nWhere to look next")
    for what, where in _places(result, uri):
        console.print(styled(f"  {what:<12} {where}"), soft_wrap=True)


def _places(result: SearchResult, uri: str) -> Iterator[tuple[str, str]]:
    """What to open or to run next; a file that was not written is not named."""
    report, best = result.folder / "report.html", result.folder / "best.yaml"
    if report.is_file():
        yield "report", sentence(report)
    yield "every trial", mlflow_tracker.where_to_look(uri, result.name)
    if best.is_file():
        yield "best recipe", sentence(best)
        yield "train it", command("python", "-m", "trainables.train", best)
        yield "check it", command("python", "-m", "trainables.train", best, "--as-searched")
    if uri == mlflow_store.NOWHERE:
        return
    if len(result.trials) and result.trials.loc[result.trials["outcome"] == "finished", "recipe"].nunique() > 1:
        store = [] if uri == mlflow_store.default_uri() else option("--tracking-uri", uri)
        search = option("--search", result.name)
        second = ["--rank", "2", "--out", "second.yaml"]
        yield "another one", command("python", "-m", "search.export", *search, *second, *store)


def all_findings(trials: pd.DataFrame, conflicts: pd.DataFrame | None, about: Mapping[str, Any], uri: str) -> Findings:
    """What the report shows and MLflow's description says."""
    try:
        others = compare(uri, str(about["name"]), trials, conflicts) if len(trials) else None
    except reader.LoadError:
        others = None  # other searches are a further look, and must not cost this one its page
    return gather(
        trials, curves=reader.curves(trials), conflicts=conflicts, margin=float(about["margin"]),
        primary=about.get("primary", ()), about=about, other_searches=others,
    )  # fmt: skip


def write_report(path: Path, findings: Findings, conflicts: pd.DataFrame | None) -> None:
    """Writes the HTML page, if there is a trial to show, and the heat map of the pairs as a picture beside it."""
    if conflicts is not None and len(conflicts):
        design = findings.design.iloc[0]
        title = f"{design['data']}, imbalance {design['imbalance']:g}, {design['model']}, {design['epochs']:g} epochs"
        # where the home folder cannot be written, it reports its temporary cache in the middle of our output
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        from analysis.report.plots.heat_map_picture import heat_map_png  # for Matplotlib no search waits at its start

        picture = heat_map_png(conflicts, title=f"Worse harm of each pair, points\n{title}")
        files.write(path.with_name("conflicts.png"), picture)
    if len(findings.trials):
        page.write(path, findings)


def answer(findings: Findings) -> str:
    """The findings in a few sentences, as Markdown; names are data and can start no markup."""
    if not len(findings.trials):
        return "No trial has finished."
    return "\n\n".join(f"**{heading}.** {markdown_cell(text)}" for heading, text in cards.answer(findings))


def finished(settings: Settings, not_settled: Sequence[str] | None = None) -> str:
    """What a search says that is resumed and has nothing left to run.

    Args:
        settings: Settings of the search.
        not_settled: With `--settle`: why none of the primary pairs gets further blocks, a line each.
    """
    if not_settled is not None:
        return "\n".join(["No primary pair gets further seeds.", *(f"  {line}" for line in not_settled)])
    return (
        f"{settings.name} is finished: nothing is left to run. To add to it:\n"
        f"  {resume_command(settings, '--trials', '+50')}\n  {resume_command(settings, '--seeds', '+2')}"
    )


def further_steps(conflicts: pd.DataFrame, settings: Settings, settling: bool, complete: bool) -> Iterator[str]:
    """What may be done about declared pairs that are open, and about conflicts that no check has seen yet.

    Args:
        conflicts: Table of pairs, with what became of the verdicts.
        settings: Settings of the search.
        settling: Whether further blocks have just been asked for.
        complete: Whether the search is at its end.
    """
    if not complete:
        return
    primary = conflicts[conflicts["primary"]]
    unresolved = (primary["verdict"] == "unresolved").sum()
    if unresolved and not settling:
        pairs = "1 declared pair is" if unresolved == 1 else f"{unresolved} declared pairs are"
        them = "it" if unresolved == 1 else "them"
        yield f"{pairs} not known yet. To run further seeds for {them} alone:\n  {resume_command(settings, '--settle')}"
    new = (primary["verdict"] == "conflict") & primary["holds_why"].str.startswith("not run at")
    if settling and settings.check_seeds and new.any():
        yield f"To check at other learning rates what settling has shown:\n  {resume_command(settings)}"


def resume_command(settings: Settings, *more: str) -> str:
    """The command that continues a search, with further words at its end."""
    where = [] if settings.output == "results" else option("--output", settings.output)
    return command("python", "run_search.py", *option("--resume", settings.name), *where, *more)


def how_to_work(settings: Settings) -> str:
    """Who trains the trials of a search without Ray."""
    start = command("longtail-tune", "worker", settings.name, "--output", settings.output)
    return f"trials are trained by workers, {settings.workers} at a time; to start one: {start}"


def how_to_resume(settings: Settings, settling: bool = False, used_up: str = "") -> str:
    """How to continue a search that is not complete, with `--settle` or a larger budget where it needs one."""
    more = ["--settle"] * settling + used_up.split()
    return f"The search is not complete; finished trials are kept. To continue:\n  {resume_command(settings, *more)}"


def _numbers(measured: Mapping[str, Any]) -> tuple[float, float, float]:
    """Mean and limits; NaN where they are unknown."""
    mean, low, high = (math.nan if measured[name] is None else measured[name] for name in ("mean", "low", "high"))
    return mean, low, high


def _best(best: Mapping[str, Any]) -> Text:
    measured, gain = best["measured"], best["measured"]["gain_over_baseline"]
    number = seeds(len(measured["seeds"]))
    arms = {"confirm": f"{number.replace(' ', ' fresh ')} that took no part in the choice"} | {
        arm: f"{number} of the {where}, by which it was chosen: the number is optimistic"
        for arm, where in (("race", "race"), ("design", "design arm"), ("adaptive", "adaptive arm"))
    }
    lines = [
        styled(f"Best recipe: {sentence(best['title'])}", "bold").append(f"  ({best['recipe']})", "not bold"),
        styled(f"  accuracy on val {percent_span(*_numbers(measured))} over {arms[measured['arm']]}"),
    ]
    if "length" in measured:
        lines.append(styled(f"  {measured['length']}: train it longer before believing its conflicts", "yellow"))
    if best["title"] == BASELINE:
        lines.append(styled("  no recipe that was tried is better than the baseline"))
    elif gain["mean"] is not None:
        lines.append(
            styled(f"  gain over the baseline {span(*_numbers(gain), ' points')}, {gain['seeds']} paired seeds")
        )
    seen = measured["images_seen"]
    if seen["baseline"] and not 0.95 < seen["recipe"] / seen["baseline"] < 1.05:
        lines.append(
            styled(
                f"  it sees {seen['recipe']:,.0f} images in training, the baseline {seen['baseline']:,.0f}: "
                "part of the gain may come from that"
            )
        )
    for verdict in best["conflicts"]:
        if verdict["verdict"] in ("conflict", "harmful", "redundant"):
            said = (
                f"  note: it has {verdict['pair']}, {VERDICTS[verdict['verdict']].name}: {sentence(verdict['reason'])}"
            )
            lines.append(styled(said, "yellow"))
    return type(lines[0])("\n").join(lines)


def _conflicts(conflicts: pd.DataFrame, trials: pd.DataFrame, width: int) -> Table:
    first = trials[trials["arm"] == "design"].iloc[0]
    title = f"Which tricks conflict: {first['data']}, imbalance {first['imbalance']:g}, {first['model']}"
    table = Table(title=styled(title, "bold"), title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    columns = ["verdict", "pair A, B", "B added to A", "A added to B"]
    wide = width >= 120
    if wide:
        columns += ["interaction", "adj. p", "seeds", "what to do"]
    for column in columns:
        text = column in ("verdict", "pair A, B", "what to do")
        # where a terminal is too narrow, names break: cut ones would name nothing
        table.add_column(column, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    names = {label: label for label in labels_of(conflicts)} if wide else short(labels_of(conflicts))
    if not wide:
        names = {label: name if len(name) <= NARROW else name.replace("/", "/\n  ") for label, name in names.items()}
    order = list(VERDICTS)
    rows = sorted(conflicts.to_dict("records"), key=lambda row: (order.index(row["verdict"]), worse_harm(row)))
    for row in rows:
        style = VERDICTS[row["verdict"]]
        marks = [DECLARED] * bool(row["primary"]) + ["sign flip"] * (row["sign_flip"] is True)
        said = f"\n{', '.join(marks)}" if marks else ""
        said += f"\n{row['holds']}" if row.get("holds") else ""
        cells = [
            styled(style.name, style.terminal).append(said, "not bold dim"),
            styled(f"{names[row['a']]}\n{names[row['b']]}"),
            _direction(row, "b_given_a"),
            _direction(row, "a_given_b"),
        ]
        if wide:
            cells += [
                _interval(row, "interaction"),
                p_text(float(row["adjusted_p"])),
                str(row["n_seeds"]),
                styled(_action(row)),
            ]
        table.add_row(*cells)
    return table


def _marks(conflicts: pd.DataFrame) -> str:
    """What the words below the verdicts mean, a sentence each."""
    words = []
    if (conflicts["holds"] != "").any():
        words.append(
            " A robust verdict was also shown at a third and at three times the learning rate, on the same seed "
            "blocks; others hold at these settings."
        )
    if conflicts["sign_flip"].any():
        words.append(" Sign flip: the trick helps alone and hurts here.")
    if conflicts["primary"].any():
        words.append(f" Pairs that are {DECLARED} were named by --primary.")
    return "".join(words)


def _tables(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    rows = {name: table.to_dict("records") for name, table in tables.items()}
    for row in rows.get("nominated", ()):
        yield (
            f"Nominated by the adaptive arm, run on {row['n_seeds']} fresh seeds: {row['a']} × {row['b']}: "
            f"{VERDICTS[row['verdict']].name}, {row['reason']}"
        )
    singles = [row for row in rows.get("removals", ()) if len(row["removed"]) == 1]
    if singles:
        words = []
        for word in ("needed", "may be removed", "unknown"):
            found = [f"{row['removed'][0]} ({points(row['loss'])})" for row in singles if row["word"] == word]
            words += [f"{word}: {', '.join(found)}"] if found else []
        yield f"\nPoints lost when a trick is removed from the best recipe (fresh seeds): {'; '.join(words)}."
    for row in rows.get("removals", ()):
        if row["depends"]:
            yield f"  {' and '.join(row['removed'])}: {row['depends']} ({points(row['dependency'])} points)"
    if rows.get("path"):
        steps = [
            f"{100 * row['mean']:.1f} %"
            if not row["added"]
            else f"+ {' + '.join(_spelled(row['added']))} {100 * row['mean']:.1f} %"
            for row in rows["path"]
        ]
        yield f"From the baseline up: {' → '.join(steps)} (path.csv has the intervals)."


def _spelled(added: Sequence[str]) -> list[str]:
    return [NUMBERS_IN_WORDS if label == NUMBERS else label for label in added]


def _action(row: Mapping[str, Any]) -> str:
    more = row["more_seeds"]
    if row["verdict"] == "not applicable":
        return "–"
    if row["verdict"] == "unresolved" and isinstance(more, int) and more > 0:
        return f"not known yet; {more} more seeds would settle it"
    return str(row["action"])


def _direction(row: Mapping[str, Any], name: str) -> str:
    """What adding one trick to the other does: a word above the number."""
    number = _interval(row, name)
    return number if row["verdict"] == "not applicable" else f"{DIRECTION_NAMES[row[f'{name}_verdict']]}\n{number}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    return plus_minus(row[name], row[f"{name}_low"], row[f"{name}_high"])
