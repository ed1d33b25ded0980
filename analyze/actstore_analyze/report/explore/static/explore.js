"use strict";
// The page. What it shows comes by path: from the server that sent it, or from the page itself.
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const KEPT = $("kept") ? JSON.parse($("kept").textContent) : null;
const NEAREST = 14;
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

class Explorer {
  constructor() {
    Object.assign(this, { title: null, role: null, condition: null, method: "pca", layer: null, colour: null, where: "", point: null });
    this.hidden = new Set(); this.shown = null; this.selected = []; this.drawing = 0;
    this.resource = resource;
    this.card = new Card(this);
  }
  get store() { return encodeURIComponent(this.title); }
  base() { return `${this.store}/${encodeURIComponent(this.role)}/${encodeURIComponent(this.condition)}`; }
  info() { return this.stores.find((one) => one.name === this.title); }
  at() { return this.info().layers.indexOf(this.layer); }
  column() { return this.table.columns[this.colour]; }

  async near(layer, i) { // in the full space
    if (!KEPT) return resource(`${this.base()}/near/${layer}/${i}`);
    const all = new Uint32Array(await resource(`${this.base()}/near/${layer}`)), k = all.length / this.table.n;
    return { indices: Array.from(all.subarray(i * k, (i + 1) * k)), distances: null };
  }
  image(at, props) { // an <img>; its bytes come later
    const made = make("img", { alt: "", loading: "lazy", ...props }), path = `${this.store}/picture/${at}`;
    if (!pictures.has(path)) pictures.set(path, resource(path).then((data) => URL.createObjectURL(new Blob([data], { type: "image/webp" }))));
    pictures.get(path).then((address) => { made.src = address; }, () => made.remove());
    return made;
  }
  thumb(i, more) {
    const { table } = this, column = this.column(), value = valueOf(column, i);
    const made = make("button", { className: "thumb", title: [table.sample_id[i], value, more].filter(Boolean).join(", ") });
    if (table.picture[i] !== null) made.append(this.image(table.picture[i], {}));
    made.append(make("span", {}, value || table.sample_id[i]));
    made.style.borderColor = colourOf(column, i);
    made.onclick = () => this.choose(i);
    return made;
  }

  async xy(layer) {
    const flat = new Float32Array(await resource(`${this.base()}/${this.method}/${layer}/xy`)), n = flat.length / 2;
    const x = new Float32Array(n), y = new Float32Array(n);
    for (let i = 0; i < n; i++) { x[i] = flat[2 * i] / 2.6; y[i] = flat[2 * i + 1] / 2.6; }
    return { x, y };
  }
  async draw(moving) {
    const drawing = ++this.drawing, { layer } = this;
    this.say("computing…", false, true);
    let plane, share;
    try { plane = await this.xy(layer); share = await resource(`${this.base()}/${this.method}/${layer}/share`); } catch (error) { this.say(error.message, true); return; }
    if (drawing !== this.drawing) return;
    const column = this.column(), n = plane.x.length, z = new Float32Array(n);
    for (let i = 0; i < n; i++) z[i] = !column ? 0 : column.codes ? column.codes[i] % COLOURS.length : column.numbers[i] === null ? 0 : column.share(column.numbers[i]);
    this.scatter.set({ pointColor: !column || column.codes ? COLOURS : GRADIENT, colorBy: column ? "valueA" : null, pointSize: Math.max(2.5, Math.min(7, 280 / Math.sqrt(n))), opacity: n > 5000 ? 0.5 : 0.85 });
    await this.scatter.draw({ x: plane.x, y: plane.y, z }, { transition: moving && this.drawn === n, transitionDuration: 500, transitionEasing: "cubicInOut", zDataType: column?.numbers ? "continuous" : "categorical", preventFilterReset: true });
    this.drawn = n;
    $("at").textContent = layer; $("layer").value = this.at(); $("layer").setAttribute("aria-valuetext", `layer ${layer}`);
    const one = !plane.x.some((v) => v !== 0) && !plane.y.some((v) => v !== 0);
    $("share").textContent = one ? "all points are one here" : share === null ? `${this.method}: distances mean little, neighbours come from the full space` : `PCA: ${(100 * share).toFixed(0)} % of the variance`;
    this.legend(); this.count(); this.remember();
    await this.path();
  }
  legend() {
    const column = this.column();
    if (!column) { $("legend").replaceChildren(); return; }
    if (column.numbers) {
      const scale = make("div", { id: "scale" }); scale.style.background = `linear-gradient(${[...GRADIENT].reverse().join(",")})`;
      $("legend").replaceChildren(make("span", {}, column.high.toPrecision(4)), scale, make("span", {}, column.low.toPrecision(4)));
      return;
    }
    $("legend").replaceChildren(...column.names.map((name, code) => {
      const dot = make("span", { className: "dot" }); dot.style.background = COLOURS[code % COLOURS.length];
      const entry = make("button", { "aria-pressed": String(!this.hidden.has(code)), title: "hide or show" }, dot, name);
      entry.onclick = () => { if (!this.hidden.delete(code)) this.hidden.add(code); this.legend(); this.filter(); };
      return entry;
    }));
  }
  visible() {
    const column = this.column(), found = [];
    for (let i = 0; i < this.table.n; i++) if ((!this.shown || this.shown.has(i)) && !(column?.codes && this.hidden.has(column.codes[i]))) found.push(i);
    return found;
  }
  filter() {
    const found = this.visible();
    if (found.length === this.table.n) this.scatter.unfilter(); else this.scatter.filter(found);
    this.count(found.length);
  }
  count(n = this.visible().length) {
    const { table } = this, drawn = table.of > table.n ? `, of ${table.of.toLocaleString("en")} drawn by seed` : "";
    if (!$("where").classList.contains("bad")) this.say(`${n.toLocaleString("en")} of ${table.n.toLocaleString("en")} points${drawn}`);
  }
  say(text, bad = false, quietly = false) {
    if (quietly && $("said").classList.contains("bad")) return;
    $("said").textContent = text.split("\n")[0]; $("said").title = text; $("said").classList.toggle("bad", bad);
  }
  async choose(i) {
    this.point = i; this.scatter.select([i], { preventEvent: true }); this.remember(); this.tell();
    await this.card.show(i); await this.path();
  }
  async path() { // the way of the chosen point through the layers
    if (this.point === null) { this.scatter.clearAnnotations?.(); return; }
    const { point } = this, vertices = [];
    for (const layer of this.info().layers) {
      if (this.method !== "pca" && layer !== this.layer) continue; // others may not be computed yet, which takes long
      const { x, y } = await this.xy(layer);
      if (point !== this.point) return;
      vertices.push([x[point], y[point]]);
    }
    if (vertices.length > 1) this.scatter.drawAnnotations([{ vertices, lineColor: this.dark() ? [1, 1, 1, 0.75] : [0.1, 0.1, 0.15, 0.75], lineWidth: 1.5 }]);
  }
  dark() { return matchMedia("(prefers-color-scheme: dark)").matches; }
  tell() { // the notebook that this page is a widget of
    const { selected, point, table } = this, chosen = selected.length ? selected : point === null ? [] : [point];
    if (parent !== window) parent.postMessage({ selected: chosen.map((i) => rowId(table.row_id[i])) }, "*");
  }
  showSelection() {
    const { selected } = this, column = this.column(), box = $("selection");
    box.hidden = !selected.length;
    if (!selected.length) return;
    const counts = new Map();
    for (const i of selected) { const name = binOf(column, i); counts.set(name, (counts.get(name) ?? 0) + 1); }
    const sorted = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8), colours = new Map(selected.map((i) => [binOf(column, i), colourOf(column, i)]));
    const ids = selected.map((i) => rowId(this.table.row_id[i]));
    const sql = `from rows where row_id in (${ids.join(", ")})`;
    const copy = (label, text) => make("button", { onclick: () => this.copy(text) }, label);
    box.replaceChildren(
      make("div", {}, make("b", {}, `${selected.length.toLocaleString("en")} selected`), bars(sorted.map(([name, n]) => [name, n, String(n)]), sorted[0][1], (name) => colours.get(name))),
      make("div", { className: "thumbs" }, ...selected.slice(0, 80).map((i) => this.thumb(i, ""))),
      make("div", { className: "copy" }, copy("copy as Python", `rows = actstore.open(${JSON.stringify(this.info().path || this.title)}).sql("${sql}")`), copy("copy as SQL", sql)));
  }
  async copy(text) {
    try { await navigator.clipboard.writeText(text); this.say("copied"); } catch { this.say("the browser does not let this page copy; it is in the tooltip here"); $("said").title = text; }
  }
  address() {
    const { title: store, role, condition, method, layer, colour, where } = this, key = this.point === null ? "" : this.table.row_id[this.point].join(".");
    const state = { store, role, condition, method, layer, colour, where, hidden: [...this.hidden].join("."), point: key };
    return new URLSearchParams(Object.entries(state).filter(([, value]) => value !== null && value !== "").map(([name, value]) => [name, String(value)]));
  }
  remember() {
    if (location.protocol !== "about:") history.replaceState(null, "", `${location.pathname}#${this.address()}`); // a notebook's frame has no address
    $("file").href = `page.html?${this.address()}`;
  }

  async open(keep) {
    const key = keep && this.point !== null && this.table ? this.table.row_id[this.point] : null;
    try { this.table = await resource(`${this.base()}/table`); } catch (error) { this.say(error.message, true); return; }
    for (const column of Object.values(this.table.columns)) {
      if (!column.numbers) continue;
      const known = column.numbers.filter((value) => value !== null);
      column.low = known.reduce((a, b) => Math.min(a, b), Infinity); column.high = known.reduce((a, b) => Math.max(a, b), -Infinity);
      column.share = (value) => (column.high > column.low ? (value - column.low) / (column.high - column.low) : 0.5);
    }
    const names = Object.keys(this.table.columns), same = keep && key ? this.table.sample.length : null;
    if (!names.includes(this.colour)) { this.colour = this.table.label; this.hidden = new Set(); }
    $("colour").replaceChildren(...names.map((name) => option(name, this.colour)));
    const { layers } = this.info();
    if (!layers.includes(this.layer)) this.layer = layers.at(-1);
    $("layer").max = layers.length - 1;
    this.shown = null; this.selected = []; this.showSelection();
    this.point = key && same !== null ? this.rowAt(key) : null;
    if (this.point === null) this.card.clear();
    this.scatter.deselect({ preventEvent: true });
    await this.draw(false);
    await this.choosing();
    if (this.point !== null) await this.choose(this.point);
  }
  rowAt(key) { const found = this.table.row_id.findIndex(([batch, i]) => batch === key[0] && i === key[1]); return found < 0 ? null : found; }
  async choosing() { // by the SQL that is asked for
    $("where").value = this.where; $("where").classList.remove("bad");
    try { this.shown = this.where ? new Set(await resource(`${this.base()}/where?${encodeURIComponent(this.where)}`)) : null; } catch (error) {
      $("where").classList.add("bad"); this.say(error.message, true); return;
    }
    $("said").classList.remove("bad");
    this.filter(); this.remember();
  }
  choices() {
    const info = this.info(), pick = (name, values, usual) => { if (!values.includes(this[name])) this[name] = values.includes(usual) ? usual : values[0]; };
    pick("role", info.roles, "eoi"); pick("condition", info.conditions, "none"); pick("method", info.methods, "pca");
    for (const [id, values] of [["role", info.roles], ["condition", info.conditions], ["method", info.methods]]) $(id).replaceChildren(...values.map((one) => option(one, this[id])));
    $("conditioned").hidden = info.conditions.length < 2;
  }
  async start() {
    this.stores = await resource("stores");
    this.read(location.hash.slice(1) || KEPT?.state || "");
    if (!this.stores.some((one) => one.name === this.title)) this.title = this.stores[0].name;
    $("store").replaceChildren(...this.stores.map((one) => option(one.name, this.title)));
    this.choices();
    const canvas = $("plot"), box = () => canvas.parentElement.getBoundingClientRect();
    this.scatter = RS.createScatterplot({ canvas, width: box().width, height: box().height, backgroundColor: this.ground(), pointColorActive: this.dark() ? "#ffffff" : "#000000", pointColorHover: this.dark() ? "#ffffff" : "#000000", pointSizeSelected: 4, lassoInitiator: false, spatialIndexUseWorker: false, actionKeyMap: { lasso: "shift", merge: "cmd", rotate: "alt" } });
    new ResizeObserver(() => this.scatter.set({ width: box().width, height: box().height })).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.scatter.set({ backgroundColor: this.ground() }); this.draw(false); });
    this.listen();
    const key = this.wanted;
    await this.open(false);
    if (key && this.table) { const i = this.rowAt(key); if (i !== null) await this.choose(i); }
    document.body.dataset.ready = "yes";
  }
  ground() { return getComputedStyle(document.documentElement).getPropertyValue("--back").trim(); }
  read(text) {
    const asked = Object.fromEntries(new URLSearchParams(text));
    this.title = asked.store ?? null;
    for (const name of ["role", "condition", "method", "colour", "where"]) if (asked[name]) this[name] = asked[name];
    if (asked.layer) this.layer = Number(asked.layer);
    this.hidden = new Set((asked.hidden ?? "").split(".").filter(Boolean).map(Number));
    this.wanted = asked.point ? asked.point.split(".").map(Number) : null;
  }
  move(layer) { this.layer = layer; this.draw(true); this.card.atLayer(); }
  step(by) { const next = this.info().layers[this.at() + by]; if (next !== undefined) this.move(next); }
  listen() {
    const { scatter } = this;
    scatter.subscribe("select", ({ points }) => { this.selected = points.length > 1 ? points : []; this.showSelection(); if (points.length === 1) this.choose(points[0]); else this.tell(); });
    scatter.subscribe("deselect", () => { this.point = null; this.selected = []; this.tell(); this.showSelection(); this.card.clear(); this.path(); this.remember(); });
    scatter.subscribe("pointOver", (i) => {
      const [x, y] = scatter.getScreenPosition(i), { table } = this;
      $("tip").replaceChildren(...(table.picture[i] !== null ? [this.image(table.picture[i], {})] : []), `${table.sample_id[i]} · ${valueOf(this.column(), i)}`);
      $("tip").style.left = `${Math.min(x + 12, $("plot").clientWidth - 150)}px`; $("tip").style.top = `${y + 12}px`; $("tip").hidden = false;
    });
    scatter.subscribe("pointOut", () => { $("tip").hidden = true; });
    $("store").onchange = (event) => { this.title = event.target.value; this.layer = null; this.choices(); this.open(false); };
    $("role").onchange = (event) => { this.role = event.target.value; this.open(false); };
    $("condition").onchange = (event) => { this.condition = event.target.value; this.open(false); };
    $("method").onchange = (event) => { this.method = event.target.value; this.draw(true); };
    $("colour").onchange = (event) => { this.colour = event.target.value; this.hidden = new Set(); this.filter(); this.draw(false); this.showSelection(); this.card.atLayer(); };
    $("layer").oninput = (event) => this.move(this.info().layers[Number(event.target.value)]);
    $("where").onkeydown = (event) => { if (event.key === "Enter") { this.where = $("where").value.trim(); this.choosing(); } event.stopPropagation(); };
    $("link").onclick = () => this.copy(location.href);
    $("play").onclick = async () => { for (const layer of this.info().layers) { this.layer = layer; await this.draw(true); this.card.atLayer(); await new Promise((done) => setTimeout(done, 650)); } };
    addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && !["INPUT", "SELECT"].includes(event.target.tagName)) { event.preventDefault(); this.step(by); }
    });
    if (KEPT) {
      $("where").disabled = true; $("where").value = this.where; $("where").placeholder = "a file by itself: SQL needs actstore explore";
      $("file").hidden = true; $("link").hidden = true; this.where = "";
    } else if (location.search) history.replaceState(null, "", `${location.pathname}${location.hash}`); // the token
  }
}
const rowId = ([batch, i]) => (BigInt(batch) * 4294967296n + BigInt(i)).toString();
const option = (name, chosen) => { const made = make("option", { value: name }, name); made.selected = name === chosen; return made; };
const explorer = new Explorer();
explorer.start().catch((error) => { $("card").replaceChildren(make("p", { className: "hint" }, String(error))); });
