"use strict";
// Of each value of the colour's column: how many of a point's nearest have it, too, by layer; of the points that are shown.
const MOST_WORK = 2e10; // squared points times their width at a layer: what is counted without being asked for

class Groups {
  constructor(view) { this.view = view; this.box = make("div", { className: "groups" }); this.asked = 0; this.wanted = null; }
  async show() {
    const { view } = this, asked = ++this.asked;
    if (view.colour === CLUSTERS) { this.box.replaceChildren(); return; }
    const found = [];
    for (const panel of view.panels()) {
      const box = make("div"), column = panel.column();
      if (!column?.codes || column.names.length < 2) continue;
      found.push([panel, column, box]);
    }
    this.box.replaceChildren(...found.map(([, , box]) => box));
    for (const [panel, column, box] of found) {
      const { n } = panel.table, key = `${panel.base()} ${view.colour}`;
      if (!KEPT && n * n * panel.info().width > MOST_WORK && this.wanted !== key) {
        box.replaceChildren(make("h3", {}, this.heading(panel)), make("button", { onclick: () => { this.wanted = key; this.show(); } }, `count them, of ${n.toLocaleString("en")} points`));
        continue;
      }
      await this.count(panel, column, box, () => asked === this.asked && this.box.isConnected);
      if (asked !== this.asked) return;
    }
  }
  heading(panel) { return `neighbours with the same ${this.view.colour}, by layer${this.view.second ? `: ${this.view.named(panel)}` : ""}`; }
  async count(panel, column, box, here) {
    const { layers } = panel.info(), { sample } = panel.table, seen = new Set(panel.kept), { codes } = column;
    const sizes = column.names.map(() => 0), chances = column.names.map(() => 0), shares = column.names.map(() => layers.map(() => null));
    const own = new Map(), of = (i) => `${sample[i]} ${codes[i]}`, more = (key) => own.set(key, (own.get(key) ?? 0) + 1);
    for (const i of seen) { sizes[codes[i]] += 1; more(sample[i]); more(of(i)); }
    const others = (i) => sizes[codes[i]] - own.get(of(i)); // of its value, in other samples
    for (const i of seen) chances[codes[i]] += others(i) / Math.max(1, seen.size - own.get(sample[i])) / sizes[codes[i]];
    const fewest = Math.min(...[...seen].map(others).filter(Boolean)), several = own.size && [...seen].some((i) => own.get(sample[i]) > 1);
    let k = 0;
    for (const [at, layer] of layers.entries()) {
      const { all, k: each } = await panel.allNear(layer), sums = column.names.map(() => [0, 0]);
      if (!here()) return;
      k = each;
      for (const i of seen) {
        const most = others(i);
        let known = 0, same = 0;
        for (let j = i * each; j < (i + 1) * each && known < most; j++) {
          if (!seen.has(all[j]) || sample[all[j]] === sample[i]) continue;
          known += 1;
          if (codes[all[j]] === codes[i]) same += 1;
        }
        if (known) { const sum = sums[codes[i]]; sum[0] += same / known; sum[1] += 1; }
      }
      sums.forEach(([sum, n], code) => { shares[code][at] = n ? sum / n : null; });
    }
    const rows = column.names.flatMap((name, code) => (sizes[code] > 1 && code !== column.none && bin(column, code) !== column.few ? [this.row(panel, column, name, code, shares[code], chances[code])] : []));
    const left = column.names.length - (column.few ?? Infinity) > 0 ? `; the ${column.names.length - column.few} rarest values are left out` : "";
    const part = [seen.size < panel.table.n ? " that are shown" : "", several ? " of other samples" : "", fewest < k ? " (of a value of fewer points, as many as it has others)" : ""].join("");
    box.replaceChildren(make("h3", {}, this.heading(panel)), make("div", { className: "lines" }, ...rows, this.axis(layers)),
      make("p", { className: "hint" }, `the mean share among each point's ${k} nearest${part} in the full space; dotted: by chance; the number: at layer ${panel.layer}${left}`));
  }
  axis(layers) {
    const W = 190, step = Math.ceil(layers.length / 7), x = (i) => 3 + (i * (W - 6)) / Math.max(layers.length - 1, 1);
    const marks = layers.flatMap((layer, i) => (i % step ? [] : [svg("text", { x: x(i), y: 9, "text-anchor": i ? (i === layers.length - 1 ? "end" : "middle") : "start" }, String(layer))]));
    return make("div", { className: "line" }, make("span", { className: "number" }, "layer"), svg("svg", { viewBox: `0 0 ${W} 11`, "aria-hidden": "true" }, ...marks), "");
  }
  row(panel, column, name, code, values, chance) {
    const W = 190, H = 26, { layers } = panel.info(), at = panel.at(), x = (i) => 3 + (i * (W - 6)) / Math.max(layers.length - 1, 1), y = (v) => 3 + (1 - v) * (H - 6);
    const colour = COLOURS[shade(column, code)], known = values.map((v, i) => [v, i]).filter(([v]) => v !== null), now = values[at];
    const drawn = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${name}: ${known.map(([v, i]) => `layer ${layers[i]} ${v.toFixed(2)}`).join(", ")}` },
      svg("line", { x1: 0, x2: W, y1: y(0), y2: y(0), stroke: "currentColor", "stroke-opacity": 0.2 }),
      svg("line", { x1: 0, x2: W, y1: y(chance), y2: y(chance), stroke: "currentColor", "stroke-opacity": 0.5, "stroke-dasharray": "2 3" }),
      svg("polyline", { fill: "none", stroke: colour, "stroke-width": 1.8, points: known.map(([v, i]) => `${x(i)},${y(v)}`).join(" ") }),
      ...known.map(([v, i]) => svg("circle", { cx: x(i), cy: y(v), r: i === at ? 3 : 1.2, fill: colour }, svg("title", {}, `${name}, layer ${layers[i]}: ${v.toFixed(2)}, by chance ${chance.toFixed(2)}`))));
    const dot = make("span", { className: "dot" }); dot.style.background = colour;
    const line = make("div", { className: "line" }, make("span", { className: "name", title: name }, dot, name), drawn, make("span", { className: "number" }, now === null || now === undefined ? "–" : now.toFixed(2)));
    return line;
  }
}
