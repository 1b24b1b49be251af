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
