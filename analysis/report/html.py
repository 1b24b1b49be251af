"""The frame of the report, and the pieces that its sections are made of: tables, figures, numbers.

Nothing here is fetched: fonts are the reader's own, plotly.js is inlined once, the script below is all of ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.formatting import VERDICTS, points
from analysis.report.plots.style import to_html
from analysis.text import csv_text, html_text

if TYPE_CHECKING:
    import pandas as pd

STYLE = """
:root { --ink: #1b1f24; --faint: #5b6470; --line: #d5dae0; --soft: #f5f7f9; --link: #0b5394; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 48px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
p, li { max-width: 78ch; }
p { margin: 8px 0; }
a { color: var(--link); }
small, .faint { color: var(--faint); font-size: .875rem; }
nav { margin: 12px 0 0; font-size: .9rem; }
nav a { display: inline-block; padding: 4px 14px 4px 0; }
.answer { margin: 20px 0 12px; border: 1px solid var(--line); border-radius: 8px; background: var(--soft); }
.answer > div { display: grid; grid-template-columns: 11rem 1fr; gap: 4px 16px; padding: 10px 16px; }
.answer > div + div { border-top: 1px solid var(--line); }
.answer dt { font-weight: 600; }
.answer dd { margin: 0; overflow-wrap: anywhere; }
.answer > div:first-child { font-size: 1.08rem; }
header p { max-width: none; }
.tally { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 14px 0 0; font-size: 1.05rem; }
.tally a { color: inherit; text-decoration: none; padding: 2px 0; }
.tally a:hover { text-decoration: underline; }
.minute { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: 12px; margin: 14px 0 16px; }
.minute section { border: 1px solid var(--line); border-left: 6px solid var(--mark); border-radius: 8px;
  padding: 10px 16px 12px; min-width: 0; }
.minute h2 { margin: 0 0 4px; padding: 0; border: 0; font-size: 1.1rem; }
.minute ul { margin: 6px 0 0; padding-left: 1.15em; }
.minute li { margin: 5px 0; overflow-wrap: anywhere; }
.minute li small { display: block; }
.minute details { margin-top: 4px; }
summary { cursor: pointer; color: var(--link); font-size: .9rem; padding: 4px 0; }
.switch { border: 1px solid var(--line); border-radius: 8px; margin: 12px 0; padding: 6px 14px 8px; }
.switch legend { font-weight: 600; padding: 0 6px; }
.switch label { display: inline-block; padding: 4px 18px 4px 0; }
h3 { font-size: 1.02rem; margin: 26px 0 4px; }
.sign { display: inline-block; min-width: 1.6em; padding: 0 .35em; border-radius: 4px; text-align: center;
  font-weight: 700; border: 1px solid rgba(0, 0, 0, .18); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 16px; padding: 0; margin: 8px 0; list-style: none;
  font-size: .9rem; }
figure { margin: 12px 0 0; min-width: 0; }
figcaption { color: var(--faint); font-size: .875rem; max-width: 78ch; }
.narrow { max-width: 760px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: 8px 0; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 10px; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--soft); vertical-align: bottom; }
td.number { white-space: nowrap; }
td.number .faint { display: block; }
td.name { min-width: 11rem; font-weight: 600; }
td small { display: block; font-weight: 400; font-size: .8125rem; }
td.verdict { min-width: 9rem; }
td.long { min-width: 17rem; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 4px 0;
  text-align: left; cursor: pointer; }
th button::after { content: " ↕"; color: var(--faint); }
th[aria-sort=ascending] button::after { content: " ↑"; color: var(--ink); }
th[aria-sort=descending] button::after { content: " ↓"; color: var(--ink); }
.tools { margin: 6px 0 0; }
.tools button { margin: 0 6px 6px 0; font: inherit; font-size: .875rem; padding: 6px 12px; border: 1px solid #aab2bd;
  border-radius: 6px; background: #fff; cursor: pointer; }
.note { background: #fff8e6; border: 1px solid #e8d9a8; border-radius: 8px; padding: 10px 14px;
  overflow-wrap: anywhere; }
.note ul { margin: 4px 0 0; padding-left: 1.15em; }
header .note { margin: 12px 0 0; }
dl.plain { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 8px 0; font-size: .9rem; }
dl.plain dt { color: var(--faint); }
dl.plain dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 640px) {
  main { padding: 16px 14px 48px; }
  .answer > div { grid-template-columns: 1fr; gap: 0; padding: 10px 12px; }
  dl.plain { grid-template-columns: 1fr; gap: 0; }
  dl.plain dd { margin-bottom: 6px; }
  td.name { min-width: 9rem; }
}
.key { display: none; }
@media (max-width: 640px) { .key { display: flex; } td.long { min-width: 13rem; } }
button:focus-visible, summary:focus-visible, .scroll:focus-visible, a:focus-visible, input:focus-visible {
  outline: 3px solid #0072B2; outline-offset: 1px; }
@media print { nav, .tools { display: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""

SCRIPT = r"""
"use strict";
const narrow = matchMedia("(max-width: 640px)");
for (const map of document.querySelectorAll("[id^=figure-conflicts]")) {
  // letters alone where names would leave no room for the cells
  const names = map.layout.yaxis.ticktext;
  const fit = () => Plotly.relayout(map, {"yaxis.ticktext": narrow.matches ? map.layout.yaxis.tickvals : names});
  narrow.addEventListener("change", fit);
  if (narrow.matches) fit();
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is unknown stays at the end
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
const tabbed = csv => {  // what a spreadsheet takes from the clipboard
  let text = "", quoted = false;
  for (let i = 0; i < csv.length; i++) {
    const sign = csv[i];
    if (sign === '"' && quoted && csv[i + 1] === '"') { text += '"'; i++; }
    else if (sign === '"') quoted = !quoted;
    else if (sign === "," && !quoted) text += "\t";
    else text += quoted && /[\t\r\n]/.test(sign) ? " " : sign;
  }
  return text;
};
const say = (button, words) => {
  const label = button.dataset.label ??= button.textContent;
  button.textContent = words;
  setTimeout(() => { button.textContent = label; }, 2500);
};
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const box = document.createElement("textarea");
    box.value = tabbed(document.getElementById(button.dataset.source).value);
    document.body.append(box);
    box.select();  // the old way also works for a page that was opened from a file
    let copied = document.execCommand("copy");
    const text = box.value;
    box.remove();
    button.focus();
    if (!copied) copied = await navigator.clipboard.writeText(text).then(() => true, () => false);
    say(button, copied ? "copied" : "not allowed by the browser: save it instead");
  });
}
const hand = (href, name) => {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  link.click();
};
for (const button of document.querySelectorAll("button.save")) {
  button.addEventListener("click", () => {
    const text = document.getElementById(button.dataset.source).value;
    const href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
    hand(href, button.dataset.name);
    URL.revokeObjectURL(href);
  });
}
for (const button of document.querySelectorAll("button.picture")) {
  button.addEventListener("click", async () => {
    const figure = document.getElementById(button.dataset.figure), format = button.dataset.format;
    const size = {width: figure.clientWidth, height: figure.clientHeight, scale: format === "png" ? 3 : 1};
    try {
      hand(await Plotly.toImage(figure, {format, ...size}), `${button.dataset.name}.${format}`);
      say(button, "saved");
    } catch (problem) { say(button, "the browser could not draw it"); }
  });
}
for (const choice of document.querySelectorAll("input[name=metric]")) {
  const show = () => {
    for (const block of document.querySelectorAll("[data-metric]")) {
      block.hidden = block.dataset.metric !== document.querySelector("input[name=metric]:checked").value;
      if (!block.hidden) block.querySelectorAll(".js-plotly-plot").forEach(figure => Plotly.Plots.resize(figure));
    }
  };
  choice.addEventListener("change", show);
  if (choice.checked) show();
}
"""

PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="longtail-tune">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
<script>$plotly</script>
</head>
<body>
<main>
<header>
<h1>$title</h1>
<p class="faint">$context</p>
$notices
</header>
<p class="tally">$tally</p>
<div class="minute">
$minute
</div>
<dl class="answer">
$answer
</dl>
<p class="faint">$units</p>
<nav aria-label="Sections">$links</nav>
$sections
</main>
<script>$script</script>
</body>
</html>
"""
)

SECTION = Template("""<section id="$id">
<h2>$title</h2>
$body
</section>
""")


# --------------------------------------------------------------------------------------------- pieces


LONG_WORD = re.compile(r"[^\s/]{25,}")
"""Does not fit into a column of a phone."""


def safe(text: object) -> str:
    """Escaped for an element or a quoted attribute."""
    return html_text(text)


def anchor(name: str) -> str:
    """A name as a part of ids, which plotly puts into its script as they are.

    >>> anchor("shares-my arm")
    'shares-my-arm'
    """
    return re.sub(r"[^\w-]", "-", name)


def wrap(text: str) -> str:
    """Escaped, and allowed to break after /, and within long words after _, which labels need on a phone."""
    return LONG_WORD.sub(lambda word: word.group().replace("_", "_<wbr>"), safe(text)).replace("/", "/<wbr>")


def note(text: str) -> str:
    """A sentence that must not be missed."""
    return f'<p class="note">{wrap(text)}</p>'


def notices(heading: str, sentences: Sequence[str]) -> str:
    """Sentences that must not be missed, under one heading; nothing where there are none."""
    listed = "".join(f"<li>{wrap(sentence)}</li>" for sentence in sentences)
    return f'<div class="note"><b>{safe(heading)}</b><ul>{listed}</ul></div>' if listed else ""


def sign(verdict: str) -> str:
    """The verdict's sign on its colour."""
    look = VERDICTS[verdict]
    return (
        f'<span class="sign" style="background:{look.colour};color:{look.ink}" aria-hidden="true">'
        f"{look.sign or '&nbsp;'}</span>"
    )


def number(text: str, value: Any) -> str:
    """A cell that sorts by its value; an unknown one sorts last. `text` is HTML already."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return f'<td class="number" data-value="{value if known else ""}">{text}</td>'


def effect(value: float, low: float, high: float) -> str:
    """A difference in points above its interval."""
    if not math.isfinite(value):
        return "unknown"
    bounds = f"{points(low)} to {points(high)}" if math.isfinite(low) and math.isfinite(high) else "no interval"
    return f"{points(value)}<span class=faint>{bounds}</span>"


def percent_span(mean: float, low: float, high: float) -> str:
    """A fraction in percent above its interval."""
    if not math.isfinite(mean):
        return "unknown"
    bounds = f"{100 * low:.1f} to {100 * high:.1f}" if math.isfinite(low) and math.isfinite(high) else "no interval"
    return f"{100 * mean:.1f}<span class=faint>{bounds}</span>"


def p_value(value: float) -> str:
    """A cell with a p-value.

    >>> p_value(0.0004)
    '<td class="number" data-value="0.0004">&lt; 0.001</td>'
    """
    words = "–" if not math.isfinite(value) else ("< 0.001" if value < 0.001 else f"{value:.3f}")
    return number(safe(words), value)


def csv(table: pd.DataFrame) -> str:
    """A table as text, without what only a store can use."""
    kept = table.drop(columns=[name for name in ("run_id",) if name in table])
    for name in ("tricks", "also", "added", "removed"):
        if name in kept:
            kept = kept.assign(**{name: [" + ".join(each) for each in kept[name]]})
    return csv_text(kept)


def table(heads: Sequence[str], rows: Sequence[str], name: str, content: str = "", file: str = "") -> str:
    """A table that sorts by a click on a heading, with buttons that copy it (tabs between cells) and save it as CSV.

    Args:
        heads: Of the columns, plain text.
        rows: HTML.
        name: Of the table on this page, a part of ids.
        content: The same as CSV, with all digits; no buttons where empty.
        file: Name of the file that is saved.
    """
    file, name = safe(file), anchor(name)
    head = "".join(f'<th scope="col"><button type="button">{safe(text)}</button></th>' for text in heads)
    tools = ""
    if content:
        tools = (
            f'<p class="tools"><button type="button" class="copy" data-source="csv-{name}">copy table</button>'
            f'<button type="button" class="save" data-source="csv-{name}" data-name="{file}">save as CSV'
            "</button></p>"
            f'<textarea id="csv-{name}" hidden readonly aria-label="{name} as CSV">{safe(content)}</textarea>'
        )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table: {name}"><table class="sortable"><thead>'
        f"<tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{tools}"
    )


def figure(drawn: Any, name: str, caption: str, kind: str = "") -> str:
    """A figure with its caption, and buttons that save it.

    Args:
        drawn: A plotly figure.
        name: Of the figure on this page, a part of ids.
        caption: Plain text.
        kind: Its CSS class.
    """
    name = anchor(name)
    buttons = "".join(
        f'<button type="button" class="picture" data-figure="figure-{name}" data-name="{name}" data-format="{form}">'
        f"save as {form.upper()}</button>"
        for form in ("svg", "png")
    )
    return (
        f'<figure class="{safe(kind)}">{to_html(drawn, name)}<figcaption>{safe(caption)}</figcaption>'
        f'<p class="tools">{buttons}</p></figure>'
    )


class Card(NamedTuple):
    """One of the plain lists at the top.

    Args:
        heading: What to do.
        verdict: Whose sign and colour it has.
        words: A sentence below the heading.
        items: The pair, and its numbers.
        tally: The heading in the line that counts all lists, after a number.
    """

    heading: str
    verdict: str
    words: str
    items: tuple[tuple[str, str], ...]
    tally: str = ""


MOST_ITEMS = 5
"""Lines of a card that are seen at once; the others unfold."""


def tally(cards: Sequence[Card]) -> str:
    """How many pairs each list has, in one line that leads to them."""
    return " ".join(
        f'<a href="#{_anchor(each)}">{sign(each.verdict)} <b>{len(each.items)}</b> {safe(each.tally)}</a>'
        for each in cards
        if each.tally
    )


def _anchor(content: Card) -> str:
    return "list-" + content.heading.lower().replace(" ", "-")


def card(content: Card) -> str:
    """A card as HTML."""
    lines = [f"<li><b>{wrap(pair)}</b><small>{wrap(words)}</small></li>" for pair, words in content.items]
    shown, hidden = lines[:MOST_ITEMS], lines[MOST_ITEMS:]
    body = f"<ul>{''.join(shown)}</ul>" if shown else ""
    if hidden:
        body += f"<details><summary>and {len(hidden)} more</summary><ul>{''.join(hidden)}</ul></details>"
    colour = VERDICTS[content.verdict].colour if content.verdict != "unresolved" else "#aab2bd"
    return (
        f'<section id="{_anchor(content)}" style="--mark:{colour}">'
        f"<h2>{sign(content.verdict)} {safe(content.heading)}</h2>"
        f"<small>{wrap(content.words)}</small>{body}</section>"
    )
