"use strict";
// The page: one panel or two, linked by sample, the layer that both follow, what is chosen, and the address of all that.
const FIRST = { title: "store", role: "role", condition: "condition" }; // in the address
const SECOND = { title: "store2", role: "role2", condition: "condition2" };
const ADDRESS = [...Object.values(FIRST), ...Object.values(SECOND), "method", "layer", "colour", "where", "hidden", "point", "panel"];
const MOST_NAMED = 12, MOST_PICTURES = 80;

class Explorer {
  constructor() {
    Object.assign(this, { first: null, second: null, method: null, layer: null, colour: null, where: "", chosen: null, selected: null });
    this.queue = Promise.resolve(); this.tasks = 0;
    this.hidden = new Set(); // codes of the first panel's column
    this.card = new Card(this); this.groups = new Groups(this);
  }
  panels() { return this.second ? [this.first, this.second] : [this.first]; }
  other(panel) { return panel === this.first ? this.second : this.first; }
  named(panel) { return [...(this.stores.length > 1 ? [panel.title] : []), `role ${panel.role}`, ...(panel.condition === "none" ? [] : [`under ${panel.condition}`]), `layer ${panel.layer}`].join(", "); }

  // The second panel shows the same layer, of a model of another depth the one that is as deep, as a share of its blocks.
  layerOf(panel) {
    const { layers, depth } = panel.info(), own = this.first.info().depth;
    if (panel === this.first || (depth === own && layers.includes(this.layer))) return this.layer;
    const apart = (one) => Math.abs(one / depth - this.layer / own);
    return layers.reduce((best, one) => (apart(one) < apart(best) ? one : best));
  }
  depthSaid(panel) {
    if (panel === this.first) return "";
    const { depth } = panel.info(), own = this.first.info().depth, { layer } = panel;
    const said = [];
    if (depth !== own) said.push(`layer ${layer} of ${depth}: ${layer * own === this.layer * depth ? "as deep as" : "the nearest to the depth of"} layer ${this.layer} of ${own}`);
    else if (layer !== this.layer) said.push(`layer ${layer}: layer ${this.layer} is not kept here`);
    const shared = [...panel.samples.keys()].filter((name) => this.first.samples.has(name)).length;
    if (!shared) said.push("no sample is in both panels");
    else if (shared < panel.samples.size) said.push(`${shared.toLocaleString("en")} of ${panel.samples.size.toLocaleString("en")} samples are on the left, too`);
    return said.join("; ");
  }
  alike(panel) { // the same value has the same colour in both panels
    const column = panel.column(), own = this.first.column();
    if (!column || this.colour === CLUSTERS) return;
    if (column.numbers) {
      const both = this.panels().map((one) => one.column()).filter((one) => one?.numbers);
      column.low = Math.min(...both.map((one) => one.own[0])); column.high = Math.max(...both.map((one) => one.own[1]));
    } else if (panel !== this.first && own?.codes) {
      let next = own.names.length;
      column.palette = column.names.map((name) => (own.names.includes(name) ? shade(own, own.names.indexOf(name)) : next++));
      column.more = next > own.names.length;
    }
  }

  async draw(moving) {
    $("at").textContent = this.layer; $("layer").value = this.first.at(); $("layer").setAttribute("aria-valuetext", `layer ${this.layer}`);
    this.remember(); this.say("computing…", false, true);
    try {
      const done = await Promise.all(this.panels().map((panel) => panel.draw(moving)));
      if (!done.every(Boolean)) return false;
    } catch (error) { this.say(error.message, true); return false; }
    if (this.colour === CLUSTERS) this.filter(); // clusters are others at another layer
    this.count();
    await this.paths();
    return true;
  }
  filter() { // the first panel's points, and of the second those of the same samples
    const { first, second } = this, found = first.visible();
    first.filter(found);
    if (second) {
      const linked = new Set(found.length === first.table.n ? second.table.sample.keys() : found.flatMap((i) => first.linked(second, i)));
      second.filter([...linked].sort((a, b) => a - b));
    }
    this.count(found.length);
    if (!this.chosen) this.groups.show();
  }
  hide(code) { if (!this.hidden.delete(code)) this.hidden.add(code); this.hid(); }
  alone(code) {
    const others = binned(this.first.column()).map((_, i) => i).filter((i) => i !== code);
    this.hidden = new Set(others.every((i) => this.hidden.has(i)) && !this.hidden.has(code) ? [] : others);
    this.hid();
  }
  hid() { this.first.legend(); this.filter(); this.remember(); }
  count(n = this.first.visible().length) {
    const { table } = this.first, drawn = table.of > table.n ? `, of ${table.of.toLocaleString("en")} drawn by seed` : "";
    if (!$("where").classList.contains("bad")) this.say(`${n.toLocaleString("en")} of ${table.n.toLocaleString("en")} points${drawn}`);
  }
  say(text, bad = false, quietly = false) {
    if (quietly && $("said").classList.contains("bad")) return;
    $("said").textContent = text.split("\n")[0]; $("said").title = text; $("said").classList.toggle("bad", bad);
  }

  async choose(panel, i) {
    this.chosen = { panel, i }; this.selected = null; this.showSelection();
    panel.mark([i]);
    const other = this.other(panel);
    if (other) other.mark(panel.linked(other, i));
    this.remember(); this.tell();
    await this.card.show(panel, i); await this.paths();
  }
  select(panel, points) {
    this.selected = { panel, points };
    const other = this.other(panel);
    if (other) other.mark([...new Set(points.flatMap((i) => panel.linked(other, i)))]);
    this.showSelection(); this.tell();
  }
  clear() {
    this.chosen = null; this.selected = null;
    for (const panel of this.panels()) panel.mark([]);
    this.showSelection(); this.tell(); this.shut(); this.paths(); this.remember();
  }
  shut() { this.card.clear(this.groups.box); this.groups.show(); }
  point(panel, i) { // at a point, or at none
    const other = this.other(panel);
    if (!other) return;
    other.rings = i === null ? [] : panel.linked(other, i);
    other.redraw();
  }
  async paths() {
    const { panel, i } = this.chosen ?? {};
    await Promise.all(this.panels().map((one) => {
      if (!panel || one === panel) return one.path(panel ? i : null);
      const linked = panel.linked(one, i);
      return one.path(linked.length === 1 ? linked[0] : null);
    }));
  }
  tell() { // the notebook that this page is a widget of
    const { selected, chosen } = this, panel = (selected ?? chosen)?.panel ?? this.first, points = selected?.points ?? (chosen ? [chosen.i] : []);
    if (parent !== window) parent.postMessage({ store: panel.title, selected: points.map((i) => rowId(panel.table.row_id[i])) }, "*");
  }
  showSelection() {
    const box = $("selection");
    box.hidden = !this.selected?.points.length;
    if (box.hidden) return;
    const { panel, points } = this.selected, column = panel.column(), counts = new Map(), colours = new Map(), other = this.other(panel);
    for (const i of points) { const name = binOf(column, i); counts.set(name, (counts.get(name) ?? 0) + 1); colours.set(name, colourOf(column, i)); }
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    const ids = points.map((i) => rowId(panel.table.row_id[i])), sql = `from rows where row_id in (${ids.join(", ")})`;
    const copy = (label, text) => make("button", { onclick: () => this.copy(text) }, label);
    const linked = other ? `, ${new Set(points.flatMap((i) => panel.linked(other, i))).size.toLocaleString("en")} in the other panel` : "";
    box.replaceChildren(
      make("div", {}, make("b", {}, `${points.length.toLocaleString("en")} selected`), linked, bars(sorted.map(([name, n]) => [name, n, String(n)]), sorted[0][1], (name) => colours.get(name))),
      make("div", { className: "thumbs" }, ...points.slice(0, MOST_PICTURES).map((i) => panel.thumb(i, "")),
        ...(points.length > MOST_PICTURES ? [make("p", { className: "hint" }, `the first ${MOST_PICTURES} of ${points.length.toLocaleString("en")}`)] : [])),
      make("div", { className: "copy" }, copy("copy as Python", `rows = actstore.open(${JSON.stringify(panel.info().path || panel.title)}).sql("${sql}")`), copy("copy as SQL", sql)));
  }
  async copy(text) {
    try { await navigator.clipboard.writeText(text); this.say("copied"); } catch { this.say("the browser does not let this page copy; it is in the tooltip here"); $("said").title = text; }
  }

  address() {
    const { first, second, method, layer, colour, where, chosen } = this, key = chosen ? chosen.panel.table.row_id[chosen.i].join(".") : "";
    const beside = second ? Object.fromEntries(Object.entries(SECOND).map(([own, name]) => [name, second[own]])) : {};
    const state = { store: first.title, role: first.role, condition: first.condition, ...beside, method, layer, colour, where, hidden: [...this.hidden].join("."), point: key, panel: chosen && chosen.panel === second ? 2 : "" };
    return new URLSearchParams(Object.entries(state).filter(([, value]) => value !== null && value !== "").map(([name, value]) => [name, String(value)]));
  }
  remember() {
    if (location.protocol !== "about:") history.replaceState(null, "", `${location.pathname}#${this.address()}`); // a notebook's frame has no address
    $("file").href = `page.html?${this.address()}`;
  }
  read(text) { // what an address asks for
    const asked = Object.fromEntries(new URLSearchParams(text)), named = (names) => Object.fromEntries(Object.entries(names).map(([own, name]) => [own, asked[name]]));
    for (const name of Object.keys(asked)) if (!ADDRESS.includes(name)) this.unmet.push(`it has “${name}”, which is nothing that it can say: ${ADDRESS.join(", ")}`);
    for (const name of ["method", "colour", "where"]) if (asked[name]) this[name] = asked[name];
    if (asked.layer) this.layer = /^\d+$/.test(asked.layer) ? Number(asked.layer) : asked.layer;
    this.hidden = new Set((asked.hidden ?? "").split(".").filter(Boolean).map(Number));
    const second = named(SECOND);
    return { first: named(FIRST), second: Object.values(second).some(Boolean) ? second : null, point: asked.point, panel: asked.panel };
  }
  met(name, value, values, usual, of = "here") { // what is asked for, where it is there
    const known = values.slice(0, MOST_NAMED).map((one) => `“${one}”`).join(", ") + (values.length > MOST_NAMED ? ", …" : "");
    if (values.includes(value)) return value;
    if (value) this.unmet?.push(`it asks for ${name} “${value}”; ${of} there ${values.length === 1 ? "is" : "are"} ${known || "nothing"}; “${usual ?? ""}” is shown`);
    return usual;
  }
  meet() { // what the address asked for in vain is said
    $("unmet").hidden = !this.unmet.length;
    if (this.unmet.length) {
      const shut = make("button", { "aria-label": "close", onclick: () => { $("unmet").hidden = true; } }, "×");
      $("unmet").replaceChildren(make("div", {}, "This page cannot show all that its address says:", ...this.unmet.map((line) => make("div", {}, `${line}.`))), shut);
    }
    this.unmet = null; // by hand one chooses from what there is
  }

  async opened() { // the panels have their tables: what there is to choose, then all of it drawn
    const { table } = this.first, names = Object.keys(table.columns), { layers, methods } = this.first.info();
    for (const panel of this.panels()) for (const column of Object.values(panel.table.columns)) column.own ??= [column.low, column.high];
    const colour = this.met("colour", this.colour, [...names, ...(table.clusters ? [CLUSTERS] : [])], table.label);
    if (this.colour && colour !== this.colour) this.hidden = new Set(); // of the column that is not here
    this.colour = colour;
    $("colour").replaceChildren(...(this.colour ? [] : [option("", "", "none")]), ...names.map((name) => option(name, this.colour)), ...(table.clusters ? [option(CLUSTERS, this.colour, "clusters at this layer")] : []));
    this.method = this.met("method", this.method, methods, methods[0]);
    $("method").replaceChildren(...methods.map((one) => option(one, this.method)));
    this.layer = this.met("layer", this.layer, layers, layers.at(-1));
    $("layer").max = layers.length - 1;
    $("where").title = `columns: ${this.first.info().columns.join(", ")}`;
    this.chosen = null; this.selected = null; this.showSelection(); this.shut();
    await this.draw(false);
    await this.choosing();
  }
  sql() { return `${this.first.base()}/where?${encodeURIComponent(this.where)}`; }
  unanswered() { return Boolean(KEPT && this.where && !(this.sql() in KEPT.kept)); } // a file has one answer, of the view that it was made of
  async choosing() { // by the SQL that is asked for
    const asked = this.unanswered() ? "" : this.where;
    $("where").value = asked; $("where").classList.remove("bad");
    try { this.first.shown = asked ? new Set(await resource(this.sql())) : null; } catch (error) {
      $("where").classList.add("bad"); this.say(error.message, true); return;
    }
    $("said").classList.remove("bad");
    this.first.legend();
    this.filter(); this.remember();
  }
  busy(task) { // one after the other; the page is ready when all of it is drawn
    delete document.body.dataset.ready;
    this.tasks += 1;
    const done = this.queue.then(task);
    this.queue = done.catch(() => {}).then(() => { this.tasks -= 1; if (!this.tasks) document.body.dataset.ready = "yes"; });
    return done;
  }
  left() { // the panels as they were: what goes on about them ends; the sample that was chosen
    this.card.asked += 1; this.groups.asked += 1;
    return this.chosen ? this.chosen.panel.table.sample_id[this.chosen.i] : null;
  }
  async change(panel, name, value) { // a panel to another store, role or condition; the chosen sample stays chosen
    const { title, role, condition } = panel, sample = this.left();
    panel.choose({ title, role, condition, [name]: value });
    try { await panel.open(); } catch (error) { panel.choose({ title, role, condition }); this.say(error.message, true); return; }
    await this.opened();
    await this.again(sample);
  }
  async again(sample) {
    const panel = this.panels().find((one) => one.samples.has(sample));
    if (panel) await this.choose(panel, panel.samples.get(sample)[0]);
  }
  async widen(wanted, named) { // to two panels
    const panel = new Panel(this);
    panel.choose(wanted, named);
    $("panels").append(panel.box);
    try { await panel.open(); } catch (error) { panel.end(); this.say(error.message, true); return; }
    this.second = panel;
    this.framed();
  }
  usual() { // beside the first panel: another store, else another role, else another condition
    const { title, role, condition } = this.first, { roles, conditions } = this.first.info();
    const another = (values, own, liked) => liked.find((one) => one !== own && values.includes(one)) ?? values.find((one) => one !== own);
    const store = another(this.stores.map((one) => one.name), title, []);
    if (store) return { title: store, role, condition };
    const beside = another(roles, role, ["last", "eoi"]);
    return beside ? { title, role: beside, condition } : { title, role, condition: another(conditions, condition, []) ?? condition };
  }
  framed() {
    $("beside").setAttribute("aria-pressed", String(Boolean(this.second))); $("swap").hidden = !this.second;
    $("panels").classList.toggle("two", Boolean(this.second));
  }
  async toggle() {
    const sample = this.left();
    if (this.second) { this.second.end(); this.second = null; this.framed(); } else await this.widen(this.usual());
    await this.opened();
    await this.again(sample);
  }
  async swap() {
    const sample = this.left();
    this.layer = this.layerOf(this.second);
    [this.first, this.second] = [this.second, this.first];
    this.hidden = new Set();
    $("panels").append(this.second.box);
    await this.opened();
    await this.again(sample);
  }
  async start() {
    this.stores = await resource("stores");
    this.unmet = [];
    const wanted = this.read(location.hash.slice(1) || KEPT?.state || "");
    this.first = new Panel(this);
    this.first.choose(wanted.first, FIRST);
    $("panels").append(this.first.box);
    await this.first.open();
    if (wanted.second) await this.widen(wanted.second, SECOND);
    this.listen();
    $("beside").hidden = this.stores.reduce((n, one) => n + one.views.length, 0) < 2;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      COLOURS = dark() ? LIGHT : DEEP;
      for (const { scatter } of this.panels()) scatter.set({ backgroundColor: ground(), pointColorActive: foreground(), pointColorHover: foreground() });
      this.draw(false);
    });
    await this.opened();
    const column = this.first.column(), there = column?.names ? binned(column) : [], lost = [...this.hidden].filter((code) => !(code in there));
    if (lost.length) {
      this.unmet.push(`it hides ${lost.join(", ")} of ${there.length} values of ${this.colour}, counted from 0`);
      lost.forEach((code) => this.hidden.delete(code)); this.hid();
    }
    const panels = { 1: this.first, ...(this.second && { 2: this.second }) }, panel = panels[this.met("panel", wanted.panel, Object.keys(panels), "1")];
    const i = panel.table.row_id.findIndex((key) => key.join(".") === wanted.point);
    if (i >= 0) await this.choose(panel, i);
    else if (wanted.point) this.unmet.push(`it asks for point “${wanted.point}”, which is not among the ${panel.table.n.toLocaleString("en")} points here`);
    this.meet();
  }
  async move(layer) { this.layer = layer; if (this.colour === CLUSTERS) this.hidden = new Set(); const drawn = this.draw(true); this.card.atLayer(); if (!this.chosen) this.groups.show(); return drawn; }
  step(by) { const next = this.first.info().layers[this.first.at() + by]; if (next !== undefined) this.move(next); }
  listen() {
    $("method").onchange = (event) => { this.method = event.target.value; this.draw(true); };
    $("colour").onchange = async (event) => {
      this.colour = event.target.value; this.hidden = new Set();
      if (await this.draw(false)) { this.filter(); this.showSelection(); this.card.atLayer(); }
    };
    $("layer").oninput = (event) => this.move(this.first.info().layers[Number(event.target.value)]);
    $("where").onkeydown = (event) => { if (event.key === "Enter") { this.where = $("where").value.trim(); this.busy(() => this.choosing()); } event.stopPropagation(); };
    $("link").onclick = () => this.copy(location.href);
    $("beside").onclick = () => this.busy(() => this.toggle());
    $("swap").onclick = () => this.busy(() => this.swap());
    $("play").onclick = async () => { for (const layer of this.first.info().layers) { await this.move(layer); await new Promise((done) => setTimeout(done, 650)); } };
    addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && !["INPUT", "SELECT"].includes(event.target.tagName)) { event.preventDefault(); this.step(by); }
    });
    if (KEPT) {
      $("where").disabled = true; $("where").placeholder = "a file by itself: SQL needs actstore explore";
      $("file").hidden = true; $("link").hidden = true;
    } else if (location.search) history.replaceState(null, "", `${location.pathname}${location.hash}`); // the token
  }
}
const explorer = new Explorer();
explorer.busy(() => explorer.start()).catch((error) => { $("card").replaceChildren(make("p", { className: "hint" }, String(error))); });
