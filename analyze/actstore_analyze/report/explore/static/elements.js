"use strict";
// What a page is made of: what it asks for, elements, colours and small drawings.
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on") || name === "className" || name === "textContent") made[name] = value;
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};
const svg = (tag, props, ...more) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...more);
  return made;
};
// What a page shows comes by path: from the server that sent it, or from the page itself.
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const KEPT = $("kept") ? JSON.parse($("kept").textContent) : null;
const asked = new Map(), pictures = new Map();
function resource(path) { // JSON, or an ArrayBuffer; each is asked for once
  if (!asked.has(path)) {
    const found = KEPT ? kept(path) : fetched(path);
    found.catch(() => asked.delete(path));
    asked.set(path, found);
  }
  return asked.get(path);
}
async function kept(path) {
  const found = KEPT.kept[path];
  if (found === undefined) throw new Error(`not in this file: ${path}`);
  return /\/(xy|near\/\d+|picture\/\d+)$/.test(path) ? bytes(found).buffer : found;
}
async function fetched(path) {
  const reply = await fetch(`data/${path}`);
  if (!reply.ok) throw new Error((await reply.text()) || reply.statusText);
  return reply.headers.get("content-type").startsWith("application/json") ? reply.json() : reply.arrayBuffer();
}
function picture(path, props) { // an <img>; its bytes come later
  const made = make("img", { alt: "", loading: "lazy", ...props });
  if (!pictures.has(path)) pictures.set(path, resource(path).then((data) => URL.createObjectURL(new Blob([data], { type: "image/webp" }))));
  pictures.get(path).then((address) => { made.src = address; }, () => made.remove());
  return made;
}

const rowId = ([batch, i]) => (BigInt(batch) * 4294967296n + BigInt(i)).toString();
const option = (name, chosen, shown = name) => { const made = make("option", { value: name }, shown); made.selected = name === chosen; return made; };
const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const foreground = () => (dark() ? "#ffffff" : "#000000");
const ground = () => getComputedStyle(document.documentElement).getPropertyValue("--back").trim();

// Okabe and Ito's colours, then others that differ in hue and lightness; the last, grey, is of what has no value.
const DEEP = [
  "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a400", "#882255", "#6a3d9a", "#a6761d",
  "#1b9e77", "#e7298a", "#4d4d9f", "#66a61e", "#c51b7d", "#2c7fb8", "#8c510a", "#9e9ac8", "#b15928", "#888888",
];
const LIGHT = DEEP.map((one) => `#${[1, 3, 5].map((at) => Math.round(0.68 * parseInt(one.slice(at, at + 2), 16) + 0.32 * 255).toString(16).padStart(2, "0")).join("")}`);
let COLOURS = dark() ? LIGHT : DEEP;
const GRADIENT = Array.from({ length: 64 }, (_, i) => { // dark blue to yellow, even in lightness
  const t = i / 63, mix = (a, b, c) => Math.round(t < 0.5 ? a + (b - a) * 2 * t : b + (c - b) * (2 * t - 1));
  return `#${[mix(58, 38, 253), mix(28, 140, 200), mix(113, 141, 37)].map((v) => v.toString(16).padStart(2, "0")).join("")}`;
});
const GREY = "#888888";
// Of many values the first few have a colour of their own; the others share the last, and an entry of the legend.
const bin = (column, code) => (code >= column.few ? column.few : code);
const binned = ({ names, few }) => (few === undefined ? names : [...names.slice(0, few), `${(names.length - few).toLocaleString("en")} others`]);
const shade = (column, code) => (code === column.none || code >= column.few ? COLOURS.length - 1 : (column.palette?.[code] ?? code) % COLOURS.length);
const colourOf = (column, i) => {
  if (!column) return GREY;
  if (column.codes) return COLOURS[shade(column, column.codes[i])];
  const value = column.numbers[i];
  return value === null ? GREY : GRADIENT[Math.round(63 * column.share(value))];
};
const valueOf = (column, i) => (!column ? "" : column.codes ? column.names[column.codes[i]] : column.numbers[i]?.toPrecision(4) ?? "none");
const binOf = (column, i) => { // of numbers one of eight ranges: a selection is counted by these
  if (!column?.numbers || column.numbers[i] === null) return valueOf(column, i);
  const at = Math.min(7, Math.floor(8 * column.share(column.numbers[i]))), edge = (n) => (column.low + (n * (column.high - column.low)) / 8).toPrecision(3);
  return `${edge(at)} to ${edge(at + 1)}`;
};

function bars(items, most, colour) {
  const box = make("div", { className: "bars" });
  for (const [name, value, shown] of items) {
    const bar = make("i");
    bar.style.width = `${(100 * value) / most}%`;
    if (colour) bar.style.background = colour(name);
    box.append(name instanceof Node ? name : make("span", { title: name }, name), bar, make("span", { className: "number" }, shown));
  }
  return box;
}
function curve(layers, values, at) {
  const W = 340, H = 84, x = (i) => 26 + (i * (W - 40)) / Math.max(layers.length - 1, 1), y = (v) => 8 + (1 - v) * (H - 28);
  const known = values.map((v, i) => [v, i]).filter(([v]) => v !== null);
  const step = Math.ceil(layers.length / 12);
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "share of neighbours with the same value, by layer" },
    ...[0, 0.5, 1].flatMap((v) => [svg("line", { x1: 26, x2: W - 12, y1: y(v), y2: y(v), stroke: "currentColor", "stroke-opacity": 0.15 }), svg("text", { x: 2, y: y(v) + 4 }, String(v))]),
    svg("polyline", { fill: "none", stroke: "var(--mark)", "stroke-width": 2, points: known.map(([v, i]) => `${x(i)},${y(v)}`).join(" ") }),
    ...known.map(([v, i]) => svg("circle", { cx: x(i), cy: y(v), r: i === at ? 5 : 2.5, fill: "var(--mark)" }, svg("title", {}, `layer ${layers[i]}: ${v.toFixed(2)}`))),
    ...layers.map((layer, i) => (i % step ? "" : svg("text", { x: x(i), y: H - 2, "text-anchor": "middle" }, String(layer)))));
}
function paint(canvas, cells, grid, colour, own) { // cells 0..255, row after row; `own` is the point's own cell
  canvas.width = grid[1]; canvas.height = grid[0];
  const pen = canvas.getContext("2d"), drawn = pen.createImageData(grid[1], grid[0]);
  cells.forEach((value, i) => drawn.data.set([...colour, 0.84 * value], 4 * i));
  if (own !== null) drawn.data.set([0, 220, 255, 230], 4 * own);
  pen.putImageData(drawn, 0, 0);
}
const HEAT = [226, 88, 20], FEATURE = [20, 150, 70];
