"""What a search with hostile names shows: on the screen, in tables, in the recipe and in MLflow's note."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from markdown_it import MarkdownIt

from analysis.conflicts import at_looks
from analysis.conflicts.search_verdicts import with_robustness
from analysis.console import Console
from analysis.formatting import VERDICTS, plus_minus
from analysis.records import reader
from analysis.report.findings import gather
from analysis.text import FORMULA, printable
from search import mlflow_tracker
from search.__main__ import parser
from search.commands import export
from search.commands.explain import show_stop
from search.console import preview, summary
from search.console.display import Display, Screen
from search.console.progress import Direction, Pair, Pairs
from search.context import SearchContext
from search.outcome import save_tables
from search.phases.ablation import Ablation
from search.phases.candidates import Candidates
from search.run import SearchResult
from search.scheduling.time_left.forecast import Span
from search.settings import Settings
from spaces.domain import Space, Stage, forbid, one_of
from tests.search.test_orchestrator import World, record
from trainables import train

NAME = "x[v2] $(touch x) |<b>#"
"""Without what `Settings` refuses in a name."""


def tables_of(trials, winner: str | None) -> dict:
    """Tables of the phases that have some."""
    plan = None if winner is None else SimpleNamespace(plan=SimpleNamespace(id=winner))
    state = SimpleNamespace(margin=0.02, winner=plan)
    return Candidates().tables(state, trials) | Ablation().tables(state, trials)


def result(records, folder: Path, name: str = "mine") -> SearchResult:
    """What a search with these records leaves, made by what makes it in a search."""
    trials = reader.frame(records)
    table = at_looks(trials, margin=0.02)
    settings = {"final_share": 0.5}
    best = export.document(trials, lambda recipe: {"stages": []}, conflicts=table, settings=settings)
    tables = tables_of(trials, "w")
    return SearchResult(
        name,
        folder,
        False,
        trials,
        with_robustness(table, trials, margin=0.02),
        best,
        {"design": 1.0},
        (1.0, 2.0),
        tables,
    )


def said(found: SearchResult, settings: Settings, **options) -> str:
    file = io.StringIO()
    uri = "sqlite:////tmp/$(touch x)[v2]/mlflow.db"
    summary.show(Console(file=file, **options), found, uri, settings, True, "--time-budget 60", ("3 [v2] \x1b",))
    return file.getvalue()


def settings_of(folder: Path, name: str = "mine") -> Settings:
    return Settings(name=name, space="s", data="folder:[v2]\x1b[31m", output=str(folder.parent))


@pytest.fixture
def found(hostile, tmp_path, monkeypatch) -> SearchResult:
    monkeypatch.setattr(export, "version", lambda name: "0")
    folder = tmp_path / "-o [red] $(touch x)" / "mine"
    folder.mkdir(parents=True)
    return result(hostile.records(), folder)


def test_every_name_is_on_the_screen_and_nothing_acts(found, hostile):
    shown = said(found, settings_of(found.folder))
    assert printable(shown) == shown
    # the labels in the table and in the sentences; titles; the data
    for name in (*hostile.HOSTILE[:4], hostile.HOSTILE[6], "folder:[v2]\x1b[31m", "  3 [v2] \x1b"):
        assert printable(name) in shown, name
    narrow = said(found, settings_of(found.folder), width=80, force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b(?!\[[\d;]*m)|[\x07\u202e]", narrow)


def test_no_file_is_named_that_is_not_there(found):
    shown = said(found, settings_of(found.folder))
    assert "report.html" not in shown and "best.yaml" not in shown and "conflicts.csv" not in shown
    assert "search.export" in shown and "mlflow ui" in shown
    (found.folder / "report.html").touch()
    shown = said(found, settings_of(found.folder))
    assert "All numbers are in report.html." in shown and str(found.folder / "report.html") in shown
    (found.folder / "best.yaml").touch()
    assert "trainables.train" in said(found, settings_of(found.folder))


def test_another_recipe_is_offered_where_there_is_one(found, hostile):
    one = [record for record in hostile.records() if not record.tricks]
    trials = reader.frame(one)
    alone = SearchResult("mine", found.folder, True, trials, None, None, {}, (0.0, 0.0), tables_of(trials, None))
    assert "search.export" not in said(alone, settings_of(found.folder))


def commands(shown: str) -> list[list[str]]:
    """The words that a shell makes of every printed command."""
    lines = (re.search(r"(python |mlflow ui).*", line) for line in shown.splitlines())
    return [shlex.split(line.group()) for line in lines if line]


def test_printed_commands_can_be_pasted(found, monkeypatch):
    for name in ("report.html", "best.yaml"):
        (found.folder / name).touch()
    monkeypatch.chdir(found.folder.parents[1])
    folder = found.folder.relative_to(Path.cwd())
    settings = Settings(name="a $(b)", space="s", data="d", output=str(folder.parent))
    shown = said(SearchResult(**{**vars(found), "folder": folder, "name": "a $(b)"}), settings)
    read = commands(shown)
    assert [words[:3] for words in read] == [
        ["python", "run_search.py", "--resume"],
        ["mlflow", "ui", "--backend-store-uri"],
        *[["python", "-m", "trainables.train"]] * 2,
        ["python", "-m", "search.export"],
    ]
    options = parser().parse_args(read[0][2:])
    assert (options.resume, options.output, options.settle) == ("a $(b)", str(folder.parent), True)
    assert options.time_budget == 60
    for words in read[2:4]:
        assert train.parser().parse_args(words[3:]).recipe.is_file()
    assert "a $(b)" in read[4] and "sqlite:////tmp/$(touch x)[v2]/mlflow.db" in read[4]


def test_commands_of_a_finished_search_can_be_pasted():
    settings = Settings(name=NAME, space="s", data="d", output="out $(x)")
    for said in (summary.finished(settings), summary.how_to_resume(settings)):
        lines = [line for line in said.splitlines() if "python" in line]
        assert lines and all(printable(line) == line and "'out $(x)'" in line for line in lines)


def test_tables_in_files_hold_no_formula(found, hostile, tmp_path):
    save_tables(found.tables, tmp_path)
    cells = []
    for name in ("nominated.csv", "removals.csv", "path.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            cells += [cell for row in csv.reader(file) for cell in row]
    assert hostile.HOSTILE[0] in cells
    assert not [cell for cell in cells if cell.startswith(FORMULA) and not re.fullmatch(r"-[\d.e-]+", cell)]
    assert printable("".join(cells)) == "".join(cells)


def test_a_recipe_file_is_data_whatever_the_search_is_called(found, tmp_path):
    content = found.best | {"title": "a\u2028title: b", "provenance": found.best["provenance"] | {"search": NAME}}
    export.write(content, tmp_path / "-best $(x).yaml")
    text = (tmp_path / "-best $(x).yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == content
    assert text.splitlines()[1] == "# python -m trainables.train './-best $(x).yaml'"
    assert printable(text) == text


def test_the_note_in_mlflow_is_plain_text_under_headings(found, hostile):
    text = summary.answer(gather(found.trials, conflicts=found.conflicts, margin=0.02))
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    children = [child for token in parsed for child in token.children or ()]
    assert {token.type for token in parsed} == {"paragraph_open", "inline", "paragraph_close"}
    assert {child.type for child in children} == {"text", "strong_open", "strong_close"}
    assert all(name in "".join(child.content for child in children) for name in hostile.HOSTILE[:2])
    assert text.count("**") == 2 * len(text.split("\n\n"))


def test_where_to_look_can_be_pasted():
    assert shlex.split(mlflow_tracker.where_to_look("sqlite:////a $(b)/c.db"))[3] == "sqlite:////a $(b)/c.db"


def test_a_stopped_trial_is_explained_in_one_line(hostile):
    file = io.StringIO()
    stopped = next(record for record in hostile.records() if record.outcome == "stopped")
    show_stop(Console(file=file), stopped)
    assert printable(file.getvalue(), keep="") == file.getvalue()[:-1] + r"\x0a"
    assert printable(hostile.HOSTILE[8]) in file.getvalue()


def test_the_preview_shows_reasons_and_data_as_they_are(hostile, tmp_path):
    reason = " ".join(hostile.HOSTILE)
    space = Space(
        stages=[Stage("first", length=1, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")])],
        screen=["first/cost_sensitive"],
        forbid=[forbid("first/cost_sensitive", "first/class_balanced", reason=reason)],
    )
    settings = Settings(name="x", space="s", data="digits-lt", trials=1, seeds=1, output=str(tmp_path / "[v2]"))
    file = io.StringIO()
    console = Console(file=file)
    preview.show(console, SearchContext.make(space, settings))
    shown = file.getvalue()
    assert f"never together: first/cost_sensitive and first/class_balanced ({printable(reason)})\n" in shown
    assert "from " + str(tmp_path / "[v2]") in shown and printable(shown) == shown


# --- the live display ---------------------------------------------------------------------------------------------


PAIR = Space(
    stages=[
        Stage("first", length=1, choose=[one_of(None, "cost_sensitive"), one_of(None, "class_balanced")]),
    ],
    screen=["first/cost_sensitive", "first/class_balanced"],
)


@pytest.fixture
def shown(tmp_path) -> tuple[Display, World, io.StringIO]:
    """The display of a search of 4 cells and 4 blocks, of which nothing has run."""
    world = World(tmp_path / "s", PAIR, seeds=4, trials=0, race=False)
    file = io.StringIO()
    return Display(Console(file=file), world.orchestrator, 1), world, file


def end_trials(display: Display, world: World, count: int, **changes) -> None:
    """Runs further trials of the search."""
    for _ in range(count):
        request = world.orchestrator.next()
        taken = dataclasses.replace(
            record(request), started=world.orchestrator.state.records.__len__() * 2.0, **changes
        )
        world.orchestrator.record(taken)
        display.record(taken)


def screen(display: Display, width: int, height: int = 50) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(display._render())
    return file.getvalue().splitlines()


def test_the_best_trial_never_falls(hostile, shown):
    monitor, best = shown[0].monitor, []
    for each in hostile.records():
        monitor.add(each)
        best.append(monitor.best.metrics["final/accuracy"])
    assert best == sorted(best) and best[-1] == max(r.metrics["final/accuracy"] for r in hostile.records())


def test_the_table_of_directions_grows_block_by_block_and_gives_no_verdict(shown, monkeypatch):
    """What stands there is what `pairwise` gives for the blocks that are complete."""
    display, world, _ = shown
    monkeypatch.setattr("search.console.display.REFRESH_SECONDS", 0.0)
    cells = len(world.orchestrator.state.factory.cells)
    assert display.progress().pairs == Pairs(0, 4, ())
    end_trials(display, world, 3 * cells + 1)
    state = world.orchestrator.state
    complete, planned = state.complete_blocks()
    assert (complete, planned) == (frozenset({0, 1, 2}), 4)
    pairs = display.progress().pairs
    (row,) = at_looks(
        reader.frame(one for one in state.records.values() if one.seed in complete), margin=world.margin
    ).to_dict("records")
    numbers = [plus_minus(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("b_given_a", "a_given_b")]
    assert [(one.b_to_a.numbers, one.a_to_b.numbers) for one in pairs.rows] == [tuple(numbers)]
    assert "So far, 3 of 4 seed blocks are complete" in pairs.words
    for width in (40, 80, 120):
        lines = screen(display, width)
        assert all(len(line.rstrip()) <= width for line in lines)
        said = " ".join(" ".join(lines).split())
        assert "So far, 3 of 4 seed blocks are complete." in said and all(number in said for number in numbers)
        assert "verdicts are given when the search has ended" in said and "design arm: which tricks conflict" in said
        table = said.partition("So far")[2]
        assert not [style.name for style in VERDICTS.values() if style.name in table]
    # looking at it was no look: the search judges as if nobody had
    assert state.looks == [] and state.block_counts == [4]


def test_a_terminal_that_is_too_low_shows_fewer_pairs_and_says_how_many(shown):
    rows = tuple(
        Pair(
            f"first trick {number} × second trick", Direction("hurts", "−1.0 ± 0.5"), Direction("unknown", "+0.1 ± 2.0")
        )
        for number in range(30)
    )
    progress = dataclasses.replace(shown[0].progress(), pairs=Pairs(3, 5, rows))
    for width, height in ((80, 24), (40, 40)):
        file = io.StringIO()
        console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
        console.print(Screen(progress, "nothing", [("design-0-000", 0.5, "a recipe")]))
        lines = file.getvalue().splitlines()
        assert len(lines) <= height
        left = next(int(line.split()[1]) for line in lines if line.startswith("and "))
        assert 0 < left < 30 and sum("first trick" in line for line in lines) == 30 - left


def test_the_last_state_of_an_interrupted_search_stays_and_that_of_a_finished_one_gives_way(tmp_path):
    for complete in (False, True):
        world = World(tmp_path / str(complete), seeds=1, trials=0, race=False)
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, color_system=None, width=80, height=40)
        with Display(console, world.orchestrator, 1) as display:
            end_trials(display, world, 2 if complete else 1)
            world.orchestrator.next()
        # what is erased at the end is wiped out line by line
        rest = file.getvalue().rpartition("elapsed")[2]
        assert (rest.count("\x1b[2K") > 3) == complete


def test_the_budget_bounds_the_time_left(shown):
    display, world, _ = shown
    end_trials(display, world, 6)
    assert re.fullmatch(r"about [\d.]+( to [\d.]+)? (s|min|h) left|less than 10 s left", display.progress().left)
    world.orchestrator.budget.seconds = world.orchestrator.budget.seconds_used + 1.0
    assert display.monitor.now(0.0, Span(1e5, 1e6)).left == "less than 10 s left"


def test_a_slow_mlflow_lengthens_the_time_left_by_no_more_than_is_waited_for_it(tmp_path):
    world = World(tmp_path / "s", seeds=4, trials=0, race=False)
    plain = Display(Console(file=io.StringIO()), world.orchestrator, 1)
    slow = Display(Console(file=io.StringIO()), world.orchestrator, 1, None, lambda trials: 1e6 * trials)
    for _ in range(6):
        request = world.orchestrator.next()
        world.orchestrator.record(record(request))
        for each in (plain, slow):
            each.record(record(request))
    one, other = plain._seconds_left(plain._began + 10), slow._seconds_left(slow._began + 10)
    assert [other.low, other.high] == pytest.approx([one.low + 60, one.high + 60])


def test_a_line_and_the_live_display_show_names_as_they_are(hostile, shown):
    display, world, file = shown
    orchestrator = world.orchestrator
    for each in hostile.records()[-4:]:
        orchestrator.state.requests[each.trial] = dataclasses.replace(
            orchestrator.next(), id=each.trial, title=each.title
        )
        display.record(each)
    assert printable(hostile.HOSTILE[8]) in file.getvalue(), "the reason of the failed trial"
    request = orchestrator.next()
    orchestrator.state.requests[request.id] = dataclasses.replace(request, title=hostile.HOSTILE[4])
    display.tick({request.id: 0.5})
    display._console.print(display._render())
    said = file.getvalue()
    assert printable(said) == said and printable(hostile.HOSTILE[4]) in said
