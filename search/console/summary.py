"""What a search says when it ends: the answer on the screen, the report, and where to look next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import files
from analysis.console import styled
from analysis.formatting import DIRECTIONS, VERDICTS, labels_of, points, settled, short
from analysis.records.schema import BASELINE, NUMBERS, NUMBERS_IN_WORDS
from analysis.text import command, markdown_cell, option, sentence

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from analysis.records.schema import Record
    from search.result import SearchResult
    from search.settings import Settings

STYLE = {
    "conflict": "bold red",
    "harmful": "red",
    "synergy": "bold green",
    "better together": "bold green",
    "redundant": "yellow",
    "compatible": "green",
    "unresolved": "dim",
    "not applicable": "dim",
}

ORDER = tuple(STYLE)
"""Verdicts in the order in which a person wants to hear them."""

NARROW = 22
"""Letters of a name that fit beside the numbers in a terminal of 80 columns."""

DECLARED = "declared"
"""Mark of a primary pair."""


def health(trials: pd.DataFrame, margin: float, winner: str | None) -> tuple[str, ...]:
    """Reasons not to believe the search, whole sentences.

    Args:
        trials: Table of trials.
        margin: Difference in accuracy that matters.
        winner: Id of the recipe that the race confirmed.
    """
    from analysis.conflicts import effects
    from analysis.report.health import warnings

    try:
        alone = effects(trials)
    except ValueError:
        alone = None  # there is no design arm to judge, which is said where the table would stand
    return tuple(warnings(trials, alone, margin, winner=winner)) if len(trials) else ()


def conflict_table(
    console: Console, trials: pd.DataFrame, margin: float, primary: Sequence[str] = (), further: Sequence[int] = ()
) -> pd.DataFrame | None:
    """The table of pairs; where the design arm cannot be judged, the reason is printed and there is none."""
    from search.verdict_table import judge, with_checks

    try:
        return with_checks(judge(trials, margin, primary, further), trials, margin)
    except ValueError as error:
        console.print(styled(f"No conflict table: {sentence(error)}", "yellow"), soft_wrap=True)
        return None


def show_notes(console: Console, data: str, notes: Sequence[str]) -> None:
    """Prints what a data set left out or assumed, where it did, so that no result is read as one of all its images."""
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
) -> None:
    """Prints the best recipe, the conflicts and where to look next.

    Args:
        console: Rich console for user-facing output.
        result: What was found.
        uri: MLflow store.
        settings: Of the search.
        settling: Whether it was cut off while it ran further blocks (`--settle`).
        used_up: Options that grant again the budgets that are used up.
        notes: What the data left out or assumed.
    """
    from analysis.report.sections import judged

    console.print()
    if result.best is not None:
        console.print(_best(result.best))
    if part := judged(result.trials):
        console.print(styled(sentence(f"  {part}."), "yellow"), soft_wrap=True)
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
        console.print(styled(settled(result.conflicts)), soft_wrap=True)
        for line in further_steps(result.conflicts, settings, settling, result.complete):
            console.print(styled(line), soft_wrap=True)
    elif result.conflicts is not None:
        console.print("No conflict table: the space screens no pair (screen= names fewer than two labels).")
    for line in _tables(result.tables):
        console.print(styled(line))
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
    from analysis.records import mlflow_store
    from search import mlflow_tracker

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


def write_report(
    path: Path,
    records: Sequence[Record],
    trials: pd.DataFrame,
    conflicts: pd.DataFrame | None,
    about: Mapping[str, Any],
    uri: str,
) -> None:
    """Writes the HTML page, if there is a trial to show, and the heat map of the pairs as a picture beside it."""
    from analysis.records import reader as load
    from analysis.report import page as report
    from analysis.report.plots.heat_map import heat_map_png

    if conflicts is not None and len(conflicts):
        design = trials[trials["arm"] == "design"].iloc[0]
        title = f"{design['data']}, imbalance {design['imbalance']:g}, {design['model']}, {design['epochs']:g} epochs"
        picture = heat_map_png(conflicts, title=f"Worse harm of each pair, points\n{title}")
        files.write(path.with_name("conflicts.png"), picture)
    if len(trials):
        try:
            elsewhere = report.over_searches(uri, str(about["name"]), trials, conflicts)
        except load.LoadError:
            elsewhere = None  # other searches are a further look, and must not cost this one its page
        report.write(
            path,
            trials,
            curves=load.curve_frame(records),
            conflicts=conflicts,
            margin=float(about["margin"]),
            primary=about.get("primary", ()),
            about=about,
            elsewhere=elsewhere,
        )


def answer(trials: pd.DataFrame, conflicts: pd.DataFrame | None, margin: float) -> str:
    """The findings in a few sentences, as Markdown; names are data and can start no markup."""
    from analysis.report import page as report

    if not len(trials):
        return "No trial has finished."
    found = report.gather(trials, conflicts=conflicts, margin=margin)
    return "\n\n".join(f"**{heading}.** {markdown_cell(text)}" for heading, text in report.answer(found))


def finished(settings: Settings, not_settled: Sequence[str] | None = None) -> str:
    """What a search says that is resumed and has nothing left to run.

    Args:
        settings: Of the search.
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
        settings: Of the search.
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
        yield f"{pairs} unresolved. To run further seeds for {them} alone:\n  {resume_command(settings, '--settle')}"
    new = (primary["verdict"] == "conflict") & primary["holds_why"].str.startswith("not run at")
    if settling and settings.check_seeds and new.any():
        yield f"To check at other learning rates what settling has shown:\n  {resume_command(settings)}"


def resume_command(settings: Settings, *more: str) -> str:
    """The command that continues a search, with further words at its end."""
    where = [] if settings.output == "results" else option("--output", settings.output)
    return command("python", "run_search.py", *option("--resume", settings.name), *where, *more)


def how_to_resume(settings: Settings, settling: bool = False, used_up: str = "") -> str:
    """What a search that ends early says; one that was settling goes on with that, one out of budget with more."""
    more = ["--settle"] * settling + used_up.split()
    return f"Stopped before its end; finished trials are kept. To continue:\n  {resume_command(settings, *more)}"


def _best(best: Mapping[str, Any]) -> Text:
    measured, gain = best["measured"], best["measured"]["gain_over_baseline"]
    number = len(measured["seeds"])
    arms = {
        "confirm": f"{number} fresh {'seed' if number == 1 else 'seeds'} that chose nothing",
        "race": f"{_seeds(number)} of the race, by which it was chosen: the number is optimistic",
        "design": f"{_seeds(number)} of the design arm, by which it was chosen: the number is optimistic",
        "adaptive": f"{_seeds(number)} of the adaptive arm, by which it was chosen: the number is optimistic",
    }
    lines = [
        styled(f"Best recipe: {sentence(best['title'])}", "bold").append(f"  ({best['recipe']})", "not bold"),
        styled(f"  accuracy on val {_percent(measured)} over {arms[measured['arm']]}"),
    ]
    if "length" in measured:
        lines.append(styled(f"  {measured['length']}: train it longer before believing its conflicts", "yellow"))
    if best["title"] == BASELINE:
        lines.append(styled("  no recipe that was tried is better than the baseline"))
    elif gain["mean"] is not None:
        lines.append(styled(f"  gain over the baseline {_points(gain)} points, {gain['seeds']} paired seeds"))
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
    from rich import box
    from rich.table import Table

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
    rows = sorted(conflicts.to_dict("records"), key=lambda row: (ORDER.index(row["verdict"]), _lower(row)))
    for row in rows:
        marks = [DECLARED] * bool(row["primary"]) + ["sign flip"] * (row["sign_flip"] is True)
        said = f"\n{', '.join(marks)}" if marks else ""
        said += f"\n{row['holds']}" if row.get("holds") else ""
        cells = [
            styled(VERDICTS[row["verdict"]].name, STYLE[row["verdict"]]).append(said, "not bold dim"),
            styled(f"{names[row['a']]}\n{names[row['b']]}"),
            _direction(row, "b_given_a"),
            _direction(row, "a_given_b"),
        ]
        if wide:
            cells += [_interval(row, "interaction"), _p(row["adjusted_p"]), str(row["n_seeds"]), styled(_action(row))]
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
        yield f"\nPoints of accuracy that the best recipe loses without a trick (fresh seeds): {'; '.join(words)}."
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


def _lower(row: Mapping[str, Any]) -> float:
    harm = min(float(row["b_given_a"]), float(row["a_given_b"]))
    return harm if math.isfinite(harm) else math.inf


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
    return number if row["verdict"] == "not applicable" else f"{DIRECTIONS[row[f'{name}_verdict']]}\n{number}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    mean, low, high = (float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    if not math.isfinite(mean):
        return "–"
    return f"{100 * mean:+.1f} ± {50 * (high - low):.1f}" if math.isfinite(high - low) else f"{100 * mean:+.1f}"


def _p(value: Any) -> str:
    if value is None or not math.isfinite(float(value)):
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"


def _percent(numbers: Mapping[str, Any]) -> str:
    spread = "" if numbers["low"] is None else f" ({100 * numbers['low']:.1f} … {100 * numbers['high']:.1f})"
    return f"{100 * numbers['mean']:.1f} %{spread}"


def _points(numbers: Mapping[str, Any]) -> str:
    spread = "" if numbers["low"] is None else f" ({100 * numbers['low']:+.1f} … {100 * numbers['high']:+.1f})"
    return f"{100 * numbers['mean']:+.1f}{spread}"
