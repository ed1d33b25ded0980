"use strict";
// What a page is made of: elements, colours, and the card of a point.
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
// Okabe and Ito's colours, then others that differ in hue and lightness.
const COLOURS = [
  "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a400", "#7f7f7f", "#6a3d9a", "#a6761d",
  "#1b9e77", "#e7298a", "#4d4d9f", "#66a61e", "#c51b7d", "#2c7fb8", "#8c510a", "#9e9ac8", "#b15928", "#888888",
];
const GRADIENT = Array.from({ length: 64 }, (_, i) => { // dark blue to yellow, even in lightness
  const t = i / 63, mix = (a, b, c) => Math.round(t < 0.5 ? a + (b - a) * 2 * t : b + (c - b) * (2 * t - 1));
  return `#${[mix(58, 38, 253), mix(28, 140, 200), mix(113, 141, 37)].map((v) => v.toString(16).padStart(2, "0")).join("")}`;
});
const colourOf = (column, i) => {
  if (!column) return COLOURS[0];
  if (column.codes) return COLOURS[column.codes[i] % COLOURS.length];
  const value = column.numbers[i];
  return value === null ? "#888888" : GRADIENT[Math.round(63 * column.share(value))];
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
  const svg = (tag, props, ...more) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
    made.append(...more);
    return made;
  };
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

// The card of a point; `view` says what is around it.
class Card {
  constructor(view) { this.view = view; this.box = $("card"); this.asked = 0; }
  async show(i) {
    const { view } = this, asked = ++this.asked, sample = await view.resource(`${view.store}/sample/${view.table.sample[i]}`);
    if (asked !== this.asked) return;
    const parts = [make("h2", {}, sample.sample_id + (sample.condition === "none" ? "" : ` under ${sample.condition}`))];
    const own = make("dl");
    for (const [name, value] of Object.entries(sample.columns)) own.append(make("dt", {}, name), make("dd", {}, String(value)));
    parts.push(make("div", { className: "row" }, this.pictures(sample, i), own), this.under(sample));
    if (sample.prompt !== null) parts.push(make("p", { className: "prompt" }, sample.prompt));
    if (sample.said.length) parts.push(make("h3", {}, "next token"), bars(sample.said.slice(0, 6).map(([word, p]) => [word, p, p.toFixed(3)]), 1));
    if (sample.text !== null) parts.push(make("h3", {}, "generated"), make("p", { className: "hint" }, `“${sample.text}”`));
    for (const [section, how] of Object.entries(sample.missing)) if (section !== "attention") parts.push(make("p", { className: "hint" }, `${section}: ${how}`));
    this.around = make("div"); this.features = make("div");
    this.box.replaceChildren(...parts, this.around, this.features);
    this.sample = sample; this.point = i;
    await this.atLayer();
  }
  clear() { this.asked += 1; this.point = null; this.box.replaceChildren(make("p", { className: "hint" }, "Click a point for its sample.")); }
  pictures(sample, i) {
    const box = make("div", { className: "pictures" });
    this.heats = sample.pictures.flatMap((one) => {
      const inner = make("div", { className: "pic" }), found = [];
      if (one.at !== null) inner.append(this.view.image(one.at, { alt: `picture ${one.name}`, className: one.heat && !one.heat.beside ? "whole" : "" }));
      if (one.heat) {
        const canvas = make("canvas", { className: one.heat.beside ? "aside" : "", "aria-label": "where the text looks" });
        const at = this.view.table.position[i], cell = one.heat.first === null || at === null ? -1 : at - one.heat.first;
        found.push({ canvas, heat: one.heat, own: cell >= 0 && cell < one.heat.grid[0] * one.heat.grid[1] ? cell : null });
        if (one.heat.beside && one.at !== null) box.append(inner, make("div", { className: "pic" }, canvas)); else inner.append(canvas);
      }
      if (inner.childNodes.length) box.append(inner);
      return found;
    });
    return box;
  }
  under(sample) {
    this.scale = make("p", { className: "hint", id: "scale-said" });
    if (!this.heats.length && sample.missing.attention) this.scale.textContent = `where the text looks is not kept: ${sample.missing.attention}`;
    return this.scale;
  }
  heat() { // at the layer of the page
    const at = this.view.at(), said = [];
    for (const { canvas, heat, own } of this.heats) {
      const layer = heat.layers[at], none = new Uint8Array(heat.grid[0] * heat.grid[1]);
      paint(canvas, layer ? bytes(layer.cells) : none, heat.grid, HEAT, own);
      said.push(layer ? `where the text looks at layer ${this.view.layer}: ${layer.low} (clear) to ${layer.high}` : `nothing reads layer ${this.view.layer}: it is the output`);
      if (own !== null) said.push("bright blue: this token's own cell");
      if (heat.beside) said.push(heat.beside);
    }
    if (said.length) this.scale.textContent = [...new Set(said)].join("; ");
  }
  async atLayer() {
    if (this.point === null || this.point === undefined) return;
    const { view, point } = this, asked = this.asked;
    this.heat();
    const column = view.column(), layer = view.layer, near = await view.near(layer, point);
    if (asked !== this.asked || layer !== view.layer) return;
    const thumbs = near.indices.map((j, rank) => view.thumb(j, near.distances ? `distance ${near.distances[rank]}` : ""));
    const shares = make("div");
    this.around.replaceChildren(
      make("h3", {}, `nearest at layer ${layer} in the full space (euclidean, of ${view.table.n.toLocaleString("en")})`), make("div", { className: "thumbs" }, ...thumbs),
      ...(column?.codes ? [make("h3", {}, `neighbours with its ${view.colour}, by layer (k = ${near.indices.length})`), shares] : []));
    const features = view.info().features.includes(layer) ? await view.resource(`${view.base()}/features/${layer}/${point}`) : [];
    if (asked !== this.asked || layer !== view.layer) return;
    this.showFeatures(features);
    if (column?.codes) await this.curve(shares, column, asked);
  }
  async curve(box, column, asked) { // layer by layer: of a large store each takes a while
    const { view, point } = this, layers = view.info().layers, values = layers.map(() => null);
    for (const [i, layer] of layers.entries()) {
      const near = await view.near(layer, point);
      if (asked !== this.asked || !box.isConnected) return;
      values[i] = near.indices.filter((j) => column.codes[j] === column.codes[point]).length / Math.max(near.indices.length, 1);
      if (i === layers.length - 1 || i % 8 === 7) box.replaceChildren(curve(layers, values, view.at()));
    }
  }
  showFeatures(features) {
    if (!features.length) { this.features.replaceChildren(); return; }
    const most = features[0][1], grid = this.heats[0]?.heat.grid;
    const rows = features.map(([name, value, cells]) => {
      const button = make("button", { title: cells ? "where in the image it is active" : "" }, `#${name}`);
      if (cells && grid) {
        const top = Math.max(...cells, 1e-9), show = () => paint(this.heats[0].canvas, cells.map((v) => (255 * v) / top), grid, FEATURE, null);
        button.onpointerenter = show; button.onfocus = show; button.onpointerleave = () => this.heat(); button.onblur = () => this.heat();
      }
      return [button, value, value.toFixed(2)];
    });
    this.features.replaceChildren(make("h3", {}, `SAE features at layer ${this.view.layer}${features.some((f) => f[2]) ? ": point at one to see where it is active" : ""}`), bars(rows, most));
  }
}
