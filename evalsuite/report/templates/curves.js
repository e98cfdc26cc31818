"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot");

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// words along x have the places 0, 1, ...
const words = (data.x.words ?? []).map(escaped);
const placed = (x) => (words.length ? words[x] : x);

const line = (curve, colour) => ({
  type: "scatter",
  mode: "lines+markers",
  name: escaped(curve.label),
  x: curve.x,
  y: curve.y,
  text: curve.runs.map(escaped),
  customdata: curve.half_width.map((width, place) => {
    const ends = [curve.y[place] - width, curve.y[place] + width];
    const interval = ` [${ends.map((end) => end.toPrecision(4)).join(", ")}]`;
    return `${width === null ? "" : interval} at ${placed(curve.x[place])}`;
  }),
  hovertemplate: "%{y}%{customdata}<br>%{text}<extra></extra>",
  line: { color: colour },
  marker: { color: colour, size: 7 },
});

const bars = (curve, colour) => ({
  array: curve.half_width, // a point of which none is known has no bar
  color: colour,
});

// a logarithm has no place for a band that reaches 0
const lowest = data.y.type === "log"
  ? Math.min(...data.curves.flatMap((curve) => curve.y)) / 10
  : -Infinity;

const band = (curve, colour) => ({
  type: "scatter",
  mode: "lines",
  x: [...curve.x, ...[...curve.x].reverse()],
  y: [
    ...curve.y.map((value, place) => value + curve.half_width[place]),
    ...curve.y.map((value, place) => Math.max(value - curve.half_width[place], lowest)).reverse(),
  ],
  fill: "toself",
  fillcolor: colour,
  opacity: 0.2,
  line: { width: 0 },
  hoverinfo: "skip",
  showlegend: false,
});

const traces = () => data.curves.flatMap((curve, place) => {
  const colour = data.colours[place % data.colours.length];
  const drawn = line(curve, colour);
  const whole = curve.x.length > 1 && curve.half_width.every((width) => width !== null);
  if (whole) return [band(curve, colour), drawn];
  return [{ ...drawn, error_y: bars(curve, colour) }];
});

const axis = (about) => ({
  title: { text: escaped(about.title) },
  type: about.type,
  gridcolor: ink("--line"),
  zerolinecolor: ink("--line"),
  automargin: true,
  ...(about.words?.length ? { tickvals: words.map((_, place) => place), ticktext: words } : {}),
});

const draw = () => {
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { t: 16, r: 16, b: 56, l: 56 },
    xaxis: axis(data.x),
    yaxis: axis(data.y),
    legend: { orientation: "h", y: 1.08 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--quiet"), activecolor: ink("--accent") },
    showlegend: data.curves.length > 1,
    hovermode: "closest",
  };
  Plotly.react(plot, traces(), layout, { displaylogo: false, responsive: true });
};

document.getElementById("figure").hidden = false;
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
