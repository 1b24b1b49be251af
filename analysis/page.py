"""The frame of the report: markup, style and script, in which `analysis.report` fills in the `$names`.

Nothing here is fetched: fonts are the reader's own, plotly.js is inlined once, the script below is all of ours.
"""

from string import Template

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
.tools button { font: inherit; font-size: .875rem; padding: 6px 12px; border: 1px solid #aab2bd; border-radius: 6px;
  background: #fff; cursor: pointer; }
.note { background: #fff8e6; border: 1px solid #e8d9a8; border-radius: 8px; padding: 10px 14px; }
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
@media print { nav, .tools { display: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""

SCRIPT = """
"use strict";
const narrow = matchMedia("(max-width: 640px)");
const map = document.getElementById("figure-conflicts");
if (map) {  // letters alone where names would leave no room for the cells
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
for (const button of document.querySelectorAll("button.copy")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.source);
    source.hidden = false;
    source.select();  // the old way also works for a page that was opened from a file
    let copied = document.execCommand("copy");
    source.hidden = true;
    if (!copied) copied = await navigator.clipboard.writeText(source.value).then(() => true, () => false);
    button.textContent = copied ? "copied" : "not allowed by the browser: save it instead";
    setTimeout(() => { button.textContent = label; }, 2500);
  });
}
for (const button of document.querySelectorAll("button.save")) {
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    const source = document.getElementById(button.dataset.source);
    link.href = URL.createObjectURL(new Blob([source.value], {type: "text/csv"}));
    link.download = button.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
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
</header>
<dl class="answer">
$answer
</dl>
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
