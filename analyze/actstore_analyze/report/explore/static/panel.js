"use strict";
// Points of one role of one store under one condition, in the plane. A page has one such panel, or two.
const CLUSTERS = "*clusters"; // in the place of a column: the clusters of the points at a layer
const MOST_RINGS = 400;
const MOST_STEPS = 16, NEAR = 4; // of a longer way the steps near this layer are clear
const FARTHEST = 4; // times the mean distance from the middle: what lies beyond is outside, until one zooms out

class Panel {
  constructor(view) {
    this.view = view;
    Object.assign(this, { title: null, role: null, condition: null, table: null, clusters: null, shown: null, rings: [], way: [], drawn: 0, drawing: 0 });
    const pick = (name) => make("select", { "aria-label": name, className: name, onchange: (event) => this.view.busy(() => this.view.change(this, name === "store" ? "title" : name, event.target.value)) });
    this.picks = { title: pick("store"), role: pick("role"), condition: pick("condition") };
    this.head = make("div", { className: "head" },
      ...Object.entries(this.picks).map(([name, select]) => make("label", { className: `of-${name}` }, `${name === "title" ? "store" : name} `, select)));
    this.canvas = make("canvas", { className: "plot", tabindex: 0, "aria-label": "points in the plane" });
    this.marks = svg("svg", { class: "marks", "aria-hidden": "true" });
    this.legendBox = make("div", { className: "legend" });
    this.tip = make("div", { className: "tip", hidden: "" });
    this.note = make("div", { className: "note" });
    this.field = make("div", { className: "field" }, this.canvas, this.marks, this.legendBox, this.note, this.tip);
    this.box = make("section", { className: "panel" }, this.head, this.field);
    this.hears();
  }
  get store() { return encodeURIComponent(this.title); }
  base() { return `${this.store}/${encodeURIComponent(this.role)}/${encodeURIComponent(this.condition)}`; }
  info() { return this.view.stores.find((one) => one.name === this.title); }
  get layer() { return this.view.layerOf(this); }
  at() { return this.info().layers.indexOf(this.layer); }
  column() { return this.view.colour === CLUSTERS ? this.clusters : this.table.columns[this.view.colour]; }

  choose(wanted, named = {}) { // of what there is, what is wanted, else what is usual
    const { stores } = this.view, usual = { title: stores[0].name, role: "eoi", condition: "none" };
    const pick = (name, values, of) => {
      const liked = [this[name], usual[name]].find((one) => values.includes(one)) ?? values[0];
      this[name] = named[name] ? this.view.met(named[name], wanted[name], values, liked, of) : values.includes(wanted[name]) ? wanted[name] : liked;
      this.picks[name].replaceChildren(...values.map((one) => option(one, this[name])));
    };
    pick("title", stores.map((one) => one.name));
    const { roles, conditions, views } = this.info();
    pick("role", roles, `in ${this.title}`);
    pick("condition", views ? conditions.filter((one) => views.some(([role, condition]) => role === this.role && condition === one)) : conditions, `of role ${this.role} in ${this.title}`);
    this.picks.condition.parentElement.hidden = conditions.length < 2;
  }
  async open() { // its table; what the points looked like is forgotten
    this.table = await resource(`${this.base()}/table`);
    for (const column of Object.values(this.table.columns)) {
      if (!column.numbers) continue;
      const known = column.numbers.filter((value) => value !== null);
      column.low = known.reduce((a, b) => Math.min(a, b), Infinity); column.high = known.reduce((a, b) => Math.max(a, b), -Infinity);
      column.share = (value) => (column.high > column.low ? (value - column.low) / (column.high - column.low) : 0.5);
    }
    Object.assign(this, { shown: null, clusters: null, rings: [], way: [], samples: new Map(), drawn: 0, reach: [1, 1] });
    this.table.sample_id.forEach((name, i) => { if (!this.samples.has(name)) this.samples.set(name, []); this.samples.get(name).push(i); });
    if (!this.scatter) {
      this.begin();
      this.sized = new ResizeObserver(() => {
        this.scatter.set(this.size());
        if (this.last && Math.abs(this.fits() - this.fit) > 1e-3) this.lay(false);
        this.redraw();
      });
      this.sized.observe(this.field);
    }
    this.scatter.deselect({ preventEvent: true });
    this.scatter.unfilter({ preventEvent: true });
  }
  size() { const { width, height } = this.field.getBoundingClientRect(); return { width, height }; }
  begin(cameraView) {
    const { canvas, view } = this, own = { backgroundColor: ground(), pointColorActive: foreground(), pointColorHover: foreground(), pointSizeSelected: 4, lassoInitiator: false, spatialIndexUseWorker: false, actionKeyMap: { lasso: "shift", merge: "cmd", rotate: "alt" } };
    let scatter;
    try { scatter = RS.createScatterplot({ canvas, cameraView, ...this.size(), ...own }); } catch { throw new Error("the browser gives this page no graphics (WebGL): load it again, or switch its hardware acceleration on"); }
    this.scatter = scatter;
    this.gone = new Promise((done) => { this.leave = () => { done(); scatter.destroy(); }; });
    scatter.subscribe("select", ({ points }) => (points.length === 1 ? view.choose(this, points[0]) : view.select(this, points)));
    scatter.subscribe("deselect", () => view.clear());
    scatter.subscribe("view", () => this.redraw());
    scatter.subscribe("pointOver", (i) => { this.tell(i); view.point(this, i); });
    scatter.subscribe("pointOut", () => { this.tip.hidden = true; view.point(this, null); });
    scatter.get("renderer").canvas.addEventListener("webglcontextlost", () => { if (this.scatter === scatter) this.renew(); });
  }
  async renew() { // the browser took its graphics away, as where a machine sleeps: what they held is lost
    const marked = this.scatter.get("selectedPoints"), seen = this.scatter.get("cameraView");
    this.leave();
    try { this.begin(seen); } catch (error) { this.note.replaceChildren(error.message); return; }
    if (!this.last) return;
    this.scatter.set(this.looks);
    await this.lay(false);
    if (this.kept) this.filter(this.kept);
    this.mark(marked);
  }
  end() { this.sized?.disconnect(); this.leave?.(); this.asked = {}; this.box.remove(); }
  hears() { // clicks, where the library alone would not
    let held = [];
    this.canvas.addEventListener("mousedown", () => { // else it takes the mouse's way since the last frame for a drag, and the view jumps
      const camera = this.scatter?.get("camera");
      if (camera?.tick()) this.scatter.view(camera.view);
    }, true);
    this.canvas.addEventListener("click", () => { // nor does it say that a point was clicked which is marked already, as linked with the chosen
      held = this.scatter?.get("selectedPoints") ?? [];
      if ((this.view.chosen ?? this.view.selected ?? { panel: this }).panel !== this && held.length) this.mark([]);
    }, true);
    this.field.addEventListener("click", () => { if (held.length && !this.scatter.get("selectedPoints").length) this.mark(held); });
  }

  // Which points of another panel a point is linked with: those of its sample, or its own token under another condition.
  linked(other, i) {
    const own = other.samples.get(this.table.sample_id[i]) ?? [], at = this.table.position[i];
    if (this.title !== other.title || this.role !== other.role || at === null) return own;
    return own.filter((j) => other.table.position[j] === at);
  }
  async near(layer, i) { // in the full space
    if (!KEPT) return resource(`${this.base()}/near/${layer}/${i}`);
    const { all, k } = await this.allNear(layer);
    return { indices: Array.from(all.subarray(i * k, (i + 1) * k)), distances: null };
  }
  async allNear(layer) { // the k nearest of every point, one after the other
    const all = new Uint32Array(await resource(`${this.base()}/near/${layer}`));
    return { all, k: all.length / this.table.n };
  }
  thumb(i, more) {
    const { table } = this, column = this.column(), named = this.view.colour === CLUSTERS ? table.columns[table.label] : column, value = valueOf(named, i);
    const made = make("button", { className: "thumb", title: [table.sample_id[i], value, more].filter(Boolean).join(", ") });
    if (table.picture[i] !== null) made.append(this.image(table.picture[i], {}));
    made.append(make("span", {}, value || table.sample_id[i]));
    made.style.borderColor = colourOf(column, i);
    made.onclick = () => this.view.choose(this, i);
    made.onpointerenter = () => { this.rings = [i]; this.redraw(); this.view.point(this, i); };
    made.onpointerleave = () => { this.rings = []; this.redraw(); this.view.point(this, null); };
    return made;
  }
  image(at, props) { return picture(`${this.store}/picture/${at}`, props); }

  async xy(layer) {
    const flat = new Float32Array(await resource(`${this.base()}/${this.view.method}/${layer}/xy`)), n = flat.length / 2;
    const x = new Float32Array(n), y = new Float32Array(n);
    for (let i = 0; i < n; i++) { x[i] = flat[2 * i]; y[i] = flat[2 * i + 1]; }
    return { x, y };
  }
  async draw(moving) { // false where something else is drawn meanwhile
    const drawing = ++this.drawing, { layer, view } = this;
    const plane = await this.xy(layer), share = await resource(`${this.base()}/${view.method}/${layer}/share`);
    const clusters = view.colour === CLUSTERS ? await resource(`${this.base()}/clusters/${layer}`) : null;
    if (drawing !== this.drawing) return false;
    this.clusters = clusters;
    view.alike(this);
    const column = this.column(), n = plane.x.length, z = new Float32Array(n);
    for (let i = 0; i < n; i++) z[i] = !column ? 0 : column.codes ? shade(column, column.codes[i]) : column.numbers[i] === null ? 0 : column.share(column.numbers[i]);
    this.looks = { pointColor: !column ? [GREY] : column.codes ? COLOURS : GRADIENT, colorBy: column ? "valueA" : null, pointSize: Math.max(2.5, Math.min(7, 280 / Math.sqrt(n))), opacity: n > 5000 ? 0.5 : 0.85 };
    this.scatter.set(this.looks);
    const farthest = (values) => values.reduce((most, v) => Math.max(most, Math.min(Math.abs(v), FARTHEST)), 0);
    this.reach = [Math.max(this.reach[0], farthest(plane.x)), Math.max(this.reach[1], farthest(plane.y))];
    this.last = { ...plane, z, zDataType: column?.numbers ? "continuous" : "categorical" };
    await this.lay(moving && this.drawn === n);
    if (drawing !== this.drawing) return false;
    this.drawn = n;
    const one = !plane.x.some((v) => v !== 0) && !plane.y.some((v) => v !== 0);
    const outside = plane.x.filter((v, i) => Math.max(Math.abs(v), Math.abs(plane.y[i])) > FARTHEST).length;
    const said = one ? "all points are one here" : share === null ? `${view.method}: distances mean little, neighbours come from the full space` : `PCA: ${(100 * share).toFixed(0)} % of the variance`;
    this.note.replaceChildren(...[view.depthSaid(this), clusters?.how, this === view.first && view.unanswered() ? `all points: what “${view.where}” chooses of this view is not in the file` : "", !column && view.colour && view.colour !== CLUSTERS ? `no column ${view.colour} here` : "", outside ? `${outside} far outside: the wheel zooms out` : "", said].filter(Boolean).map((line) => make("div", {}, line)));
    this.legend();
    this.redraw();
    return true;
  }
  fits() { // how large all points of the layers that were shown are seen
    const { clientWidth: wide, clientHeight: high } = this.field, [x, y] = this.reach;
    return 0.94 * Math.min(wide / high / x, 1 / y);
  }
  lay(transition) { // what was last asked for, as large as it fits; one drawing after the other
    this.waiting = { transition };
    this.laying ??= this.lays().finally(() => { this.laying = null; });
    return this.laying;
  }
  async lays() { // a page out of sight draws when it is seen again
    while (this.waiting) {
      const { x, y, z, zDataType } = this.last, { transition: moves } = this.waiting, fit = this.fit = this.fits();
      this.waiting = null;
      await Promise.race([this.gone, this.scatter.draw({ x: x.map((v) => v * fit), y: y.map((v) => v * fit), z }, { transition: moves, transitionDuration: 500, transitionEasing: "cubicInOut", zDataType, preventFilterReset: true })]);
    }
  }
  legend() {
    const column = this.column(), { view, legendBox } = this, leads = this === view.first;
    if (!column || (!leads && !column.how && !column.more)) { legendBox.replaceChildren(); return; }
    if (column.numbers) {
      const scale = make("div", { className: "scale" }); scale.style.background = `linear-gradient(${[...GRADIENT].reverse().join(",")})`;
      legendBox.replaceChildren(make("span", {}, column.high.toPrecision(4)), scale, make("span", {}, column.low.toPrecision(4)));
      return;
    }
    const known = new Set(column.codes.filter((_, i) => !this.shown || this.shown.has(i)).map((code) => bin(column, code)));
    legendBox.replaceChildren(...binned(column).flatMap((name, code) => {
      if (!known.has(code)) return [];
      const dot = make("span", { className: "dot" }); dot.style.background = COLOURS[shade(column, code)];
      if (!leads) return make("span", { className: "entry" }, dot, name);
      return make("button", { className: "entry", "aria-pressed": String(!view.hidden.has(code)), title: "hide or show; twice: it alone", onclick: () => view.hide(code), ondblclick: () => view.alone(code) }, dot, name);
    }));
  }
  visible() { // by SQL and the legend
    const column = this.column(), { hidden } = this.view, found = [];
    for (let i = 0; i < this.table.n; i++) if ((!this.shown || this.shown.has(i)) && !(column?.codes && hidden.has(bin(column, column.codes[i])))) found.push(i);
    return found;
  }
  filter(found) {
    this.kept = found;
    const quietly = { preventEvent: true }; // what is chosen stays chosen where it is not seen
    if (found.length === this.table.n) this.scatter.unfilter(quietly); else this.scatter.filter(found, quietly);
  }
  mark(points) { // as chosen
    if (points.length) this.scatter.select(points, { preventEvent: true }); else this.scatter.deselect({ preventEvent: true });
  }
  async path(i) { // the way of a point through the layers
    this.way = []; this.redraw();
    if (i === null) return;
    const way = [], asked = this.asked = {};
    for (const layer of this.info().layers) {
      if (this.view.method !== "pca" && layer !== this.layer) continue; // others may not be computed yet, which takes long
      const { x, y } = await this.xy(layer);
      if (asked !== this.asked) return;
      way.push([x[i], y[i], layer]);
    }
    this.way = way; this.redraw();
  }
  place(x, y) { // pixels of the field; the camera's matrix is in columns
    const { clientWidth: wide, clientHeight: high } = this.field, v = this.scatter.get("cameraView"), [p, q] = [x * this.fit, y * this.fit];
    const [a, b] = [v[0] * p + v[4] * q + v[12], v[1] * p + v[5] * q + v[13]];
    return [(wide * ((a * high) / wide + 1)) / 2, high * (0.5 - b / 2)];
  }
  redraw() {
    const way = this.way.map(([x, y, layer]) => [...this.place(x, y), layer]), step = Math.ceil(way.length / 6);
    const long = way.length > MOST_STEPS, at = way.findIndex(([, , layer]) => layer === this.layer); // a long way is clear near this layer, and pale
    this.marks.replaceChildren(
      ...(way.length > 1 ? [svg("polyline", { points: way.map(([x, y]) => `${x},${y}`).join(" "), ...(long ? { class: "far" } : {}) })] : []),
      ...(long ? [svg("polyline", { points: way.slice(Math.max(0, at - NEAR), at + NEAR + 1).map(([x, y]) => `${x},${y}`).join(" ") })] : []),
      ...(way.length > 1 ? way.flatMap(([x, y, layer], i) => [
        svg("circle", { cx: x, cy: y, r: layer === this.layer ? 0 : way.length > 12 ? 1.4 : 2.2, class: "step" }),
        ...(i % step || layer === this.layer ? [] : [svg("text", { x: x + 5, y: y - 4 }, String(layer))])]) : []),
      ...this.rings.slice(0, MOST_RINGS).map((i) => {
        const [x, y] = this.scatter.getScreenPosition(i);
        return svg("circle", { cx: x, cy: y, r: 8, class: "ring" });
      }));
  }
  tell(i) {
    const [x, y] = this.scatter.getScreenPosition(i), { table, tip } = this;
    tip.replaceChildren(...(table.picture[i] !== null ? [this.image(table.picture[i], {})] : []), `${table.sample_id[i]} · ${valueOf(this.column(), i)}`);
    tip.style.left = `${Math.max(0, Math.min(x + 12, this.field.clientWidth - 160))}px`; tip.style.top = `${Math.min(y + 12, this.field.clientHeight - 90)}px`; tip.hidden = false;
  }
}
