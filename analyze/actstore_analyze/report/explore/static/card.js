"use strict";
// The card of a point: its sample, its nearest, and what is known of it at the layer of its panel.
const MOST_CELLS = 8; // in a row, of words that stand as they lie in the picture
class Card {
  constructor(view) { this.view = view; this.box = $("card"); this.asked = 0; this.point = null; }
  async show(panel, i) {
    const asked = ++this.asked, sample = await resource(`${panel.store}/sample/${panel.table.sample[i]}`);
    if (asked !== this.asked) return;
    const parts = [make("h2", {}, sample.sample_id + (sample.condition === "none" ? "" : ` under ${sample.condition}`))];
    const own = make("dl");
    for (const [name, value] of Object.entries(sample.columns)) own.append(make("dt", {}, name), make("dd", {}, String(value)));
    this.panel = panel; this.point = i; this.sample = sample;
    const pictures = this.pictures(sample, i);
    parts.push(make("div", { className: "row" }, ...(pictures.childNodes.length ? [pictures] : []), own), this.under(sample));
    if (sample.prompt !== null) parts.push(make("p", { className: "prompt" }, sample.prompt));
    if (sample.said.length) parts.push(make("h3", {}, "next token"), bars(sample.said.slice(0, 6).map(([word, p]) => [word, p, p.toFixed(3)]), 1));
    if (sample.text !== null) parts.push(make("h3", {}, "generated"), make("p", { className: "hint" }, `“${sample.text}”`));
    for (const [section, how] of Object.entries(sample.missing)) if (section !== "attention") parts.push(make("p", { className: "hint" }, `${section}: ${how}`));
    for (const name of ["around", "beside", "words", "features"]) parts.push(this[name] = make("div"));
    this.box.replaceChildren(...parts);
    await this.atLayer();
  }
  clear(...shown) {
    this.asked += 1; this.point = null;
    this.box.replaceChildren(make("p", { className: "hint" }, "Click a point for its sample. Drag with Shift held for a lasso. The wheel zooms; ← and → change the layer."), ...shown);
  }
  pictures(sample, i) {
    const box = make("div", { className: "pictures" });
    this.heats = sample.pictures.flatMap((one) => {
      const inner = make("div", { className: "pic" }), found = [];
      if (one.at !== null) inner.append(this.panel.image(one.at, { alt: `picture ${one.name}`, className: one.heat && !one.heat.beside ? "whole" : "" }));
      if (one.heat) {
        const canvas = make("canvas", { className: one.heat.beside ? "aside" : "", "aria-label": "where the text looks" });
        const at = this.panel.table.position[i], cell = one.heat.first === null || at === null ? -1 : at - one.heat.first;
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
    const at = this.panel.at(), said = [];
    for (const { canvas, heat, own } of this.heats) {
      const layer = heat.layers[at], none = new Uint8Array(heat.grid[0] * heat.grid[1]);
      paint(canvas, layer ? bytes(layer.cells) : none, heat.grid, HEAT, own);
      const read = heat.layers.findLastIndex((one) => one);
      said.push(layer ? `where the text looks at layer ${this.panel.layer}: ${layer.low} (clear) to ${layer.high}`
        : `nothing reads layer ${this.panel.layer}, the output: go to layer ${this.panel.info().layers[read]} (←) to see where the text looked`);
      if (own !== null) said.push("bright blue: this token's own cell");
      if (heat.beside) said.push(heat.beside);
    }
    if (said.length) this.scale.textContent = [...new Set(said)].join("; ");
  }
  async atLayer() {
    if (this.point === null) return;
    const { panel, point, asked } = this, column = panel.column(), { layer } = panel;
    this.heat();
    const near = await panel.near(layer, point), here = () => asked === this.asked && layer === panel.layer;
    if (!here()) return;
    const thumbs = near.indices.map((j, rank) => panel.thumb(j, near.distances ? `distance ${near.distances[rank]}` : ""));
    const shares = make("div"), k = this.labelled(column) ? this.counted(column, near.indices.length) : 0;
    this.around.replaceChildren(
      make("h3", {}, `nearest at layer ${layer} in the full space (euclidean, of ${panel.table.n.toLocaleString("en")})`), make("div", { className: "thumbs" }, ...thumbs),
      ...(k ? [make("h3", {}, `neighbours with its ${this.view.colour}, by layer (k = ${k}${k < near.indices.length ? ", as many as there are others" : ""})`), shares] : []));
    await this.besides(near, here);
    if (here() && k) await this.curve(shares, column, k, asked);
    if (here()) await this.lens(layer, here);
    const kept = panel.info().features.includes(layer), features = kept ? await resource(`${panel.base()}/features/${layer}/${point}`) : [];
    if (!here()) return;
    if (kept) this.showFeatures(features); else this.features.replaceChildren(make("p", { className: "hint" }, `SAE features: ${panel.info().saes}`));
  }
  labelled(column) { return column?.codes && this.view.colour !== CLUSTERS; } // clusters of one layer are not those of another
  counted(column, most) { // of its nearest as many as there are others of its kind, or all
    const { point } = this, { sample } = this.panel.table;
    return Math.min(most, column.codes.filter((one, j) => one === column.codes[point] && sample[j] !== sample[point]).length);
  }
  async curve(box, column, k, asked) { // layer by layer: of a large store each takes a while
    const { panel, point } = this, { layers } = panel.info(), { sample } = panel.table, values = layers.map(() => null);
    for (const [i, layer] of layers.entries()) {
      const near = await panel.near(layer, point);
      if (asked !== this.asked || !box.isConnected) return;
      const others = near.indices.filter((j) => sample[j] !== sample[point]).slice(0, k);
      values[i] = others.length ? others.filter((j) => column.codes[j] === column.codes[point]).length / others.length : null;
      if (i === layers.length - 1 || i % 8 === 7) box.replaceChildren(curve(layers, values, panel.at()));
    }
  }
  async besides(near, here) { // nearest of the linked point of the other panel
    const { panel, point } = this, other = this.view.other(panel), own = other ? panel.linked(other, point) : [];
    if (!other || own.length !== 1) {
      this.beside.replaceChildren(...(other ? [make("p", { className: "hint" }, own.length ? `${own.length} points of this sample in the other panel` : "not in the other panel")] : []));
      return;
    }
    const { layer } = other, there = await other.near(layer, own[0]);
    if (!here() || layer !== other.layer) return;
    const mine = new Set(near.indices.map((j) => panel.table.sample_id[j]));
    const same = there.indices.filter((j) => mine.has(other.table.sample_id[j])).length;
    this.beside.replaceChildren(
      make("h3", {}, `nearest in the other panel, ${this.view.named(other)} (${same} of ${there.indices.length} are samples of those above)`),
      make("div", { className: "thumbs" }, ...there.indices.map((j) => other.thumb(j, mine.has(other.table.sample_id[j]) ? "above, too" : ""))));
  }
  async lens(layer, here) { // what would be said next, at the point and at each token of the picture
    const { panel, point, sample } = this, kept = panel.info().lens;
    if (kept !== true) { this.words.replaceChildren(make("p", { className: "hint" }, `logit lens: ${kept}`)); return; }
    const own = await resource(`${panel.base()}/lens/${layer}/${point}`), cells = sample.words ? await resource(`${panel.store}/words/${layer}/${panel.table.sample[point]}`) : null;
    if (!here()) return;
    this.words.replaceChildren(make("h3", {}, `logit lens at layer ${layer}: what would be said next here`), bars(own.map(([word, p]) => [word, p, p.toFixed(3)]), 1));
    if (cells?.length) this.words.append(make("h3", {}, "and at each token of the picture"), this.cells(cells, this.heats[0]?.heat.grid));
  }
  cells(words, grid) {
    if (!grid || grid[1] > MOST_CELLS) { // too many to stand as they lie: counted
      const counts = new Map();
      for (const [word] of words) counts.set(word, (counts.get(word) ?? 0) + 1);
      const sorted = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8);
      return bars(sorted.map(([word, n]) => [word, n, String(n)]), sorted[0]?.[1] ?? 1);
    }
    const box = make("div", { className: "words" });
    box.style.gridTemplateColumns = `repeat(${grid[1]}, minmax(0, 1fr))`;
    words.forEach(([word, p], cell) => {
      const one = make("span", { title: `${word} ${p.toFixed(3)}` }, word);
      one.style.background = `rgb(226 88 20 / ${0.7 * p})`;
      one.onpointerenter = () => paint(this.heats[0].canvas, new Uint8Array(grid[0] * grid[1]), grid, HEAT, cell);
      one.onpointerleave = () => this.heat();
      box.append(one);
    });
    return box;
  }
  showFeatures(features) {
    const heading = `SAE features at layer ${this.panel.layer}`, { places, other_model: other } = this.panel.info();
    const notes = [other, features.length && places && `where they are active: ${places}`].filter(Boolean).map((text) => make("p", { className: "hint" }, text));
    if (!features.length) { this.features.replaceChildren(make("p", { className: "hint" }, `${heading}: none is active here`), ...notes); return; }
    const most = features[0][1], grid = this.heats[0]?.heat.grid;
    const rows = features.map(([name, value, cells]) => {
      const button = make("button", { title: cells ? "where in the image it is active" : "" }, `#${name}`);
      if (cells && grid) {
        const show = () => {
          paint(this.heats[0].canvas, bytes(cells), grid, FEATURE, null);
          this.scale.textContent = `where feature ${name} is active: from none (clear) to its most in this picture`;
        };
        button.onpointerenter = show; button.onfocus = show; button.onpointerleave = () => this.heat(); button.onblur = () => this.heat();
      }
      return [button, value, value.toFixed(2)];
    });
    this.features.replaceChildren(make("h3", {}, `${heading}${features.some((f) => f[2]) && grid ? ": point at one to see where it is active" : ""}`), bars(rows, most), ...notes);
  }
}
