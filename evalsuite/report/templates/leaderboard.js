"use strict";
const points = JSON.parse(document.getElementById("points").textContent);
const axes = JSON.parse(document.getElementById("axes").textContent);
const form = document.getElementById("filters");
const plot = document.getElementById("plot");
const field = (name) => form.elements[name];
const limits = ["nfe", "params_m", "gpu_hours"];

const passes = (row) => {
  if (field("metric").value && row.metric !== field("metric").value) return false;
  if (field("kind").value && row.kind !== field("kind").value) return false;
  if (field("resolution").value && String(row.resolution) !== field("resolution").value) return false;
  const guidance = field("guidance").value;
  if (guidance === "off" && row.guidance !== "off") return false;
  if (guidance === "on" && (!row.guidance || row.guidance === "off")) return false;
  for (const name of limits) {
    const most = field(name).value;
    if (most !== "" && !(row[name] !== null && row[name] <= Number(most))) return false;
  }
  const words = field("words").value.trim().toLowerCase();
  return !words || row.model.toLowerCase().includes(words);
};

const showRows = () => {
  let shown = 0;
  for (const element of document.querySelectorAll("[data-point]")) {
    const visible = passes(points[Number(element.dataset.point)]);
    element.hidden = !visible;
    shown += visible;
  }
  for (const kind of ["[data-group]", ".protocol"]) {
    for (const block of document.querySelectorAll(kind)) {
      block.hidden = !block.querySelector("[data-point]:not([hidden])");
    }
  }
  document.getElementById("shown").textContent = `${shown} of ${points.length} rows are shown.`;
};

const figures = () => {
  const counts = new Map();
  for (const row of points.filter(passes)) {
    for (const title of row.figures) {
      const before = counts.get(title) || [0, 0, 0];
      const isResult = row.kind === "result";
      const most = isResult ? Math.max(before[0], row.num_samples) : before[0];
      counts.set(title, [most, before[1] + isResult, before[2] + 1]);
    }
  }
  const order = [...counts.keys()];
  const gap = (a, b, place) => counts.get(b)[place] - counts.get(a)[place];
  order.sort((a, b) => gap(a, b, 0) || gap(a, b, 1) || gap(a, b, 2)); // of most samples first
  return order;
};

const refillFigures = () => {
  const select = field("group");
  const before = select.value;
  const found = figures();
  select.replaceChildren(...found.map((title) => new Option(title, title)));
  if (found.includes(before)) select.value = before;
};

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const remarks = (row) => [
  row.unknown && `no place, because unknown: ${row.unknown}`,
  row.declared && `declared, not verified: ${row.declared}`,
  row.mixed_numerics && "samples of mixed numerics",
].filter(Boolean);

const caption = (row) => row.model + (row.guidance ? `, guidance ${row.guidance}` : "");

const trace = (rows, axis, name, about) => ({
  type: "scatter",
  mode: "markers",
  name,
  x: rows.map((row) => row[axis]),
  y: rows.map((row) => row.value),
  text: rows.map((row) => [caption(row), ...remarks(row)].map(escaped).join("<br>")),
  hovertemplate: "%{text}<br>%{y} at %{x}<extra></extra>",
  ...about,
});

const tracesOf = (rows, axis) => {
  const results = rows.filter((row) => row.kind === "result");
  const measured = results.filter((row) => row.standard_error !== null);
  const bare = results.filter((row) => row.standard_error === null);
  const claims = rows.filter((row) => row.kind === "claim");
  const accent = ink("--accent");
  const hollow = { size: 9, symbol: "circle-open", color: ink("--quiet"), line: { width: 1.5 } };
  const errors = { array: measured.map((row) => 1.96 * row.standard_error), color: accent };
  return [
    trace(claims, axis, "claims", { marker: hollow }),
    trace(measured, axis, "results, 95 % interval", {
      marker: { size: 10, color: accent },
      error_y: errors,
    }),
    trace(bare, axis, "results without an interval", {
      marker: { size: 10, symbol: "square", color: accent },
    }),
  ].filter((one) => one.x.length);
};

const draw = () => {
  const axis = field("axis").value;
  const group = field("group").value;
  const members = points.filter((row) => passes(row) && row.figures.includes(group));
  const rows = members.filter((row) => row.value !== null && row[axis] !== null);
  const lost = members.length - rows.length;
  document.getElementById("missing").textContent = lost
    ? `${lost} ${lost === 1 ? "row does" : "rows do"} not say ${axes[axis]}.`
    : "";
  const scale = (name) => {
    const values = rows.map((row) => row[name]);
    const wide = values.length && Math.min(...values) > 0
      && Math.max(...values) / Math.min(...values) > 10;
    return wide ? "log" : "linear";
  };
  const line = { gridcolor: ink("--line"), zerolinecolor: ink("--line"), automargin: true };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { t: 16, r: 16, b: 56, l: 56 },
    xaxis: { ...line, title: { text: axes[axis] }, type: scale(axis) },
    yaxis: { ...line, title: { text: escaped(group.split(",")[0] || "") }, type: scale("value") },
    legend: { orientation: "h", y: 1.08 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--quiet"), activecolor: ink("--accent") },
    showlegend: true,
    hovermode: "closest",
  };
  Plotly.react(plot, tracesOf(rows, axis), layout, { displaylogo: false, responsive: true });
};

const update = () => {
  showRows();
  refillFigures();
  draw();
};

form.hidden = false;
document.getElementById("figure").hidden = false;
const choices = [...field("metric").options].map((option) => option.value);
if (choices.includes("fid")) field("metric").value = "fid";
form.addEventListener("input", update);
form.addEventListener("reset", () => window.setTimeout(update, 0));
form.addEventListener("submit", (event) => event.preventDefault());
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
update();
