"use strict";
for (const block of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  const said = document.createElement("span");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy " + block.dataset.copy);
  said.className = "hidden";
  said.setAttribute("role", "status");
  const copyBySelection = () => {
    const selection = window.getSelection();
    selection.selectAllChildren(block);
    const done = document.execCommand("copy");
    selection.removeAllRanges();
    if (!done) throw new Error("the browser refused");
  };
  const tell = (word) => {
    button.textContent = said.textContent = word;
    window.setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 2000);
  };
  button.addEventListener("click", async () => {
    try {
      if (navigator.clipboard) await navigator.clipboard.writeText(block.textContent);
      else copyBySelection();
      tell("Copied");
    } catch {
      try { copyBySelection(); tell("Copied"); } catch { tell("Select and copy"); }
    }
  });
  block.before(button);
  block.after(said);
}

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);
document.addEventListener("pointerover", (event) => {
  const marked = event.target.closest("[data-tip]");
  tip.hidden = !marked;
  if (!marked) return;
  tip.textContent = marked.dataset.tip;
  const place = marked.getBoundingClientRect();
  const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
  tip.style.top = `${place.bottom + window.scrollY + 6}px`;
});

for (const place of document.querySelectorAll("[data-find]")) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  const said = document.createElement("output");
  input.type = "search";
  place.className = "find";
  label.append(`${place.dataset.label} `, input);
  place.append(label, said);
  const rows = [...document.querySelectorAll(place.dataset.find)];
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase();
    let found = 0;
    for (const row of rows) {
      row.hidden = words !== "" && !row.textContent.toLowerCase().includes(words);
      found += !row.hidden;
    }
    for (const details of new Set(rows.map((row) => row.closest("details")))) {
      if (!details || details.contains(input)) continue;
      const some = details.querySelector("tr:not([hidden])") !== null;
      details.hidden = words !== "" && !some;
      details.open = words !== "" && some && found <= 20;
    }
    said.textContent = words === "" ? "" : `${found} found`;
  });
}

const valueOf = (row, place) => {
  const cell = row.cells[place];
  const text = cell.dataset.value ?? cell.textContent.replace(/,/g, "").replace(/−/g, "-");
  const number = Number.parseFloat(text);
  return Number.isNaN(number) ? -Infinity : number;
};

for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sorts";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((a, b) => (down ? 1 : -1) * (valueOf(b, place) - valueOf(a, place)));
      body.append(...rows);
    });
  });
}
