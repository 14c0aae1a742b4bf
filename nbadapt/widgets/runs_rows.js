// The elements of the table of runs, what the page knows of the runs, and their rows. It follows overlay.js and stands
// before runs.js, in one module with both.

const HEADS = ["name", "method", "state", "result", "time", "parameters", "memory", "tags", "note", "model", "data",
  "steps", "when", "run"]; // as CELLS of runs_feed.py
const KEYS = ["steps", "time", "parameters", "memory", "when"];
const DESCENDS = ["result", "when"]; // the best and the newest first

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = `nbadapt-runs-${className}`;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(className, text) {
  const element = make("button", className, text);
  element.type = "button";
  return element;
}

/** A labelled menu or field. */
function field(tag, className, text) {
  const label = make("label", className, text);
  const control = make(tag);
  label.append(" ", control);
  return { label, control };
}

/** The elements of the widget, empty. */
function build() {
  const ui = { root: make("section") };
  ui.root.className = "nbadapt-runs";
  ui.root.setAttribute("aria-label", "Runs");
  keepKeys(ui.root);
  ui.hider = document.createElement("style"); // hides the static picture for as long as this view is there
  const head = make("div", "head");
  ui.count = make("span", "count", "connecting");
  ui.count.setAttribute("role", "status");
  const filter = field("input", "filter", "Filter");
  Object.assign(filter.control, { type: "search", placeholder: "words; -word leaves out", spellcheck: false });
  ui.filter = filter.control;
  const quality = field("select", "", "Quality");
  ui.qualityBox = quality.label;
  ui.quality = quality.control;
  ui.refresh = button("", "Refresh");
  ui.close = button("", "Close");
  ui.close.title = "Leave only the static table here";
  head.append(make("span", "title", "Runs"), ui.count, filter.label, quality.label, ui.refresh, ui.close);
  buildTable(ui);
  buildActions(ui);
  buildCharts(ui);
  ui.differ = make("div", "differ");
  ui.differ.tabIndex = 0; // wide tables scroll, with keys too
  ui.differ.setAttribute("role", "region");
  ui.differ.setAttribute("aria-label", "What differs between the ticked runs");
  ui.root.append(ui.hider, head, ui.scroll, ui.actions, ui.problem, ui.editor, ui.question, ui.charts, ui.differ);
  for (const part of [ui.actions, ui.problem, ui.editor, ui.question, ui.charts, ui.differ]) part.hidden = true;
  return ui;
}

function buildTable(ui) {
  ui.scroll = make("div", "scroll");
  ui.scroll.tabIndex = 0;
  ui.scroll.setAttribute("role", "region");
  ui.scroll.setAttribute("aria-label", "Table of runs");
  const table = make("table");
  const row = make("tr");
  const tick = make("th", "tick");
  tick.append(make("span", "unseen", "compare"));
  row.append(tick);
  ui.heads = HEADS.map((name) => {
    const cell = make("th", `cell-${name}`);
    cell.scope = "col";
    const sort = button("sort", name);
    sort.dataset.name = name;
    cell.append(sort);
    row.append(cell);
    return cell;
  });
  const head = make("thead");
  head.append(row);
  ui.body = make("tbody");
  table.append(head, ui.body);
  ui.none = make("div", "none", "No run fits the filter.");
  ui.none.hidden = true;
  ui.scroll.append(table, ui.none);
}

function buildActions(ui) {
  ui.actions = make("div", "actions");
  ui.ticked = make("span", "ticked");
  ui.edit = button("", "Note and tags");
  ui.remove = button("danger", "Delete …");
  ui.clear = button("", "Untick all");
  ui.actions.append(ui.ticked, ui.edit, ui.remove, ui.clear);
  ui.problem = make("div", "problem");
  ui.problem.setAttribute("role", "alert");

  ui.editor = make("form", "editor");
  const tags = field("input", "", "Tags");
  tags.control.placeholder = "words, with spaces between them";
  tags.control.maxLength = 800;
  const note = field("textarea", "", "Note");
  note.control.rows = 3;
  note.control.maxLength = 4000;
  [ui.tags, ui.note, ui.editTitle] = [tags.control, note.control, make("div", "subject")];
  ui.save = button("", "Save");
  ui.save.type = "submit";
  ui.cancel = button("", "Cancel");
  const buttons = make("div", "buttons");
  buttons.append(ui.save, ui.cancel);
  ui.editor.append(ui.editTitle, tags.label, note.label, buttons);

  ui.question = make("div", "question");
  ui.question.setAttribute("role", "alertdialog");
  ui.question.setAttribute("aria-label", "Delete runs?");
  ui.questionText = make("pre");
  ui.yes = button("danger", "Delete");
  ui.no = button("", "Keep");
  const answers = make("div", "buttons");
  answers.append(ui.yes, ui.no);
  ui.question.append(ui.questionText, answers);
}

function buildCharts(ui) {
  ui.charts = make("div", "charts");
  const canvas = (box, label) => {
    const element = make("canvas");
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", label);
    box.append(element);
    return element;
  };
  const curves = make("figure", "curves");
  const curve = field("select", "", "Curves of");
  ui.curve = curve.control;
  curves.append(curve.label);
  ui.overlay = canvas(curves, "Curves of the ticked runs");
  ui.overlay.tabIndex = 0;
  ui.curveHint = make("div", "hint");
  ui.readout = make("div", "readout");
  ui.readout.setAttribute("role", "status");
  ui.legend = make("ul", "legend");
  ui.legend.setAttribute("aria-label", "Ticked runs");
  curves.append(ui.curveHint, ui.readout, ui.legend);
  ui.scatterBox = make("figure", "scatter");
  const cost = field("select", "", "Quality against");
  ui.cost = cost.control;
  ui.scatterBox.append(cost.label);
  ui.scatter = canvas(ui.scatterBox, "Quality against cost");
  ui.scatterHint = make("div", "hint");
  ui.scatterBox.append(ui.scatterHint);
  ui.charts.append(curves, ui.scatterBox);
}

/** What the page knows, and how it wants to see it. */
class State {
  constructor() {
    this.ids = [];
    this.rows = new Map();
    this.more = 0;
    this.found = null; // what the kernel says of the last search, among all runs
    this.ui = null;
    this.search = "";
    this.sort = ""; // a column, with a dash in front the other way round; "" the newest first
    this.sequence = null;
  }

  cell(id, name) {
    return this.rows.get(id).cells[HEADS.indexOf(name)];
  }

  called(id) {
    return (this.rows.has(id) && this.cell(id, "name")) || id.replace(/^\d{8}-\d{6}-/, "");
  }

  /** A metric of a run; undefined where it has none. */
  measured(id) {
    return this.rows.get(id).metrics[this.ui.quality] ?? undefined;
  }

  smaller() {
    return this.ui.qualities.find(([name]) => name === this.ui.quality)?.[1] ?? false;
  }

  /** What a run is sorted by; null where it is unknown. */
  key(id, name) {
    if (name === "result") {
      const value = this.measured(id);
      return value === undefined ? null : this.smaller() ? -value : value;
    }
    const place = KEYS.indexOf(name);
    return place >= 0 ? this.rows.get(id).keys[place] : this.cell(id, name).toLowerCase() || null;
  }

  /** How the kernel answers the present search; null where it has not yet. */
  answer() {
    return this.found?.search === this.search ? this.found : null;
  }

  fits(id) {
    const words = this.rows.get(id).cells.join("\n").toLowerCase();
    return this.search.toLowerCase().split(/\s+/).filter(Boolean)
      .every((word) => (word.length > 1 && word[0] === "-" ? !words.includes(word.slice(1)) : words.includes(word)));
  }

  /** The ids to show, in order; as `chosen` of columns.py. */
  shown() {
    const answer = this.answer();
    const there = answer ? answer.places.map((place) => this.ids[place]) : this.ids;
    const fit = there.filter((id) => this.rows.has(id) && (answer || this.fits(id)));
    const name = this.sort.replace(/^-/, "");
    if (!name) return fit;
    const turn = (this.sort[0] === "-" ? -1 : 1) * (DESCENDS.includes(name) ? -1 : 1);
    const known = fit.map((id) => [this.key(id, name), id]);
    const ranked = known.filter(([key]) => key !== null);
    ranked.sort(([a], [b]) => (a < b ? -turn : a > b ? turn : 0));
    return [...ranked.map(([, id]) => id), ...known.filter(([key]) => key === null).map(([, id]) => id)];
  }
}

/** Keep the rows' elements: only what changed is set, so that focus and scrolling stay. */
class Rows {
  constructor(ui, state, onTick) {
    Object.assign(this, { ui, state, onTick, elements: new Map() });
  }

  draw() {
    const { ui, state } = this;
    const shown = state.shown();
    for (const [id, row] of this.elements) if (!state.rows.has(id)) (row.remove(), this.elements.delete(id));
    shown.forEach((id) => this.drawRow(id));
    const rows = shown.map((id) => this.elements.get(id));
    const before = [...ui.body.children];
    if (rows.length !== before.length || rows.some((row, i) => row !== before[i])) {
      const focus = document.activeElement;
      ui.body.replaceChildren(...rows);
      if (ui.body.contains(focus)) focus.focus({ preventScroll: true });
    }
    ui.none.hidden = rows.length > 0 || !state.ids.length;
    const all = state.ids.length + state.more;
    const fitting = state.search ? (state.answer()?.all ?? rows.length) : all;
    const older = fitting > rows.length ? `, ${fitting - rows.length} older ones not shown` : "";
    ui.count.textContent = (state.search && fitting < all ? `${rows.length} of ${all}` : `${rows.length}`) + older;
    for (const head of ui.heads) {
      const name = head.firstChild.dataset.name;
      const on = state.sort.replace(/^-/, "") === name;
      const down = (state.sort[0] === "-") !== DESCENDS.includes(name);
      if (on) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      if (name === "result") head.firstChild.textContent = state.ui.quality || "result";
    }
  }

  drawRow(id) {
    const { state } = this;
    const record = state.rows.get(id);
    let row = this.elements.get(id);
    if (!row) {
      row = make("tr");
      const tick = make("td", "tick");
      const box = make("input");
      box.type = "checkbox";
      box.addEventListener("change", () => this.onTick(id, box.checked));
      tick.append(box, make("span", "place"));
      row.append(tick, ...HEADS.map((name) => make(name === "name" ? "th" : "td", `cell-${name}`)));
      row.children[1].scope = "row";
      this.elements.set(id, row);
    }
    const [box, place] = row.firstChild.children;
    const at = state.ui.ticked.indexOf(id);
    box.checked = at >= 0;
    box.setAttribute("aria-label", `compare ${state.called(id)}`);
    row.dataset.ticked = String(at >= 0);
    place.textContent = at >= 0 ? String(at + 1) : "";
    place.dataset.ink = String(at % INKS);
    HEADS.forEach((name, i) => {
      const cell = row.children[i + 1];
      const value = name === "result" ? state.measured(id) : undefined;
      let text = name === "result" ? (value === undefined ? "" : format(value)) : record.cells[i];
      if (name === "name") {
        cell.dataset.named = String(text !== "");
        text = state.called(id);
      }
      if (cell.textContent === text) return;
      cell.textContent = text;
      if (text.length > 24) cell.title = text;
      else cell.removeAttribute("title");
      if (name === "state") cell.dataset.state = text.split(" ")[0];
    });
  }
}
