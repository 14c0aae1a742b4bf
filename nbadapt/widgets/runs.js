// The table of runs, an anywidget module that follows notebook.js, chart.js, overlay.js and runs_rows.js. runs_feed.py
// says what the messages hold. Data reaches the page through textContent, values of fields and canvases only, never as
// HTML.

const POLL_MS = 1000; // while some run goes on
const READ_MS = 30; // while a long log is read, piece by piece
const SEARCH_MS = 200; // of rest after a key, before the kernel looks for older runs too
const SETTLE_MS = 1500; // of quiet before the picture for the saved notebook is drawn anew
const SILENT_MS = 4000; // without an answer by then, say so

/** Fill a menu with [value, text] pairs; nothing is touched where they are the same. */
function fill(select, pairs, value) {
  const known = JSON.stringify(pairs);
  if (select.dataset.known !== known) {
    select.dataset.known = known;
    select.replaceChildren(
      ...pairs.map(([key, text]) => {
        const option = make("option", "", text);
        option.value = key;
        return option;
      }),
    );
  }
  if (select.value !== value) select.value = value;
}

function plain(metric) {
  return metric.replaceAll("_", " ");
}

/** What is ticked, the menus, the legend. */
function drawChosen(ui, state, untick) {
  const { ticked, curves, qualities, costs } = state.ui;
  fill(ui.quality, qualities.map(([name]) => [name, plain(name)]), state.ui.quality);
  ui.qualityBox.hidden = !qualities.length;
  fill(ui.curve, curves.map((name) => [name, plain(name)]), state.ui.curve);
  fill(ui.cost, costs, state.ui.cost);
  ui.charts.hidden = !ticked.length;
  ui.actions.hidden = !ticked.length;
  ui.ticked.textContent = ticked.length === 1 ? "1 ticked: tick another to compare" : `${ticked.length} ticked`;
  ui.edit.disabled = ticked.length !== 1;
  ui.edit.title = ticked.length === 1 ? "" : "for one ticked run";
  ui.curveHint.textContent = state.ui.curve === "loss" ? "lines: training, smoothed; dashes: evaluation" : "evaluation";
  ui.legend.replaceChildren(
    ...ticked.map((id, place) => {
      const item = make("li");
      const mark = make("span", "mark", String(place + 1));
      mark.dataset.ink = String(place % INKS);
      const gone = button("untick", "×");
      gone.setAttribute("aria-label", `untick ${state.called(id)}`);
      gone.addEventListener("click", () => untick(id));
      const method = state.rows.has(id) ? `${state.cell(id, "method")}, ${state.cell(id, "state")}` : "";
      item.append(mark, make("span", "called", state.called(id)), make("span", "hint", method), gone);
      return item;
    }),
  );
}

function drawTable(ui, state, { lines, more }) {
  const { ticked } = state.ui;
  ui.differ.hidden = ticked.length < 2;
  if (ticked.length < 2) return;
  const table = make("table");
  table.append(make("caption", "", lines.length ? "What differs" : "They do not differ in anything that was kept."));
  const head = make("tr");
  head.append(make("td"));
  ticked.forEach((id, place) => {
    const cell = make("th");
    cell.scope = "col";
    const mark = make("span", "mark", String(place + 1));
    mark.dataset.ink = String(place % INKS);
    cell.append(mark, ` ${state.called(id)}`);
    head.append(cell);
  });
  table.append(head);
  let group = "";
  for (const [of, label, cells, best] of lines) {
    if (of !== group) {
      const row = make("tr", "group");
      const name = make("th", "", of);
      name.scope = "colgroup";
      name.colSpan = cells.length + 1;
      row.append(name);
      table.append(row);
      group = of;
    }
    const row = make("tr");
    const name = make("th", "", label);
    name.scope = "row";
    row.append(name);
    cells.forEach((text, i) => {
      const cell = make("td", best.includes(i) ? "best" : "", text);
      if (best.includes(i)) cell.append(make("span", "unseen", " (the best)"));
      row.append(cell);
    });
    table.append(row);
  }
  const rest = more ? [make("div", "hint", `and ${more} more differences: %nbadapt compare shows them`)] : [];
  ui.differ.replaceChildren(table, ...rest);
}

/** Give the scatter its points: ticked runs by number, the others in grey. */
function drawScatter(ui, state, scatter) {
  const { ticked, cost } = state.ui;
  const place = KEYS.indexOf(cost);
  const unit = cost === "memory" ? 2 ** 30 : 1;
  const points = [];
  for (const id of state.shown().concat(ticked.filter((id) => state.rows.has(id) && !state.fits(id)))) {
    const [x, y] = [state.rows.get(id).keys[place], state.measured(id)];
    if (x !== null && y !== undefined) points.push([ticked.indexOf(id), x / unit, y]);
  }
  points.sort((a, b) => a[0] - b[0]);
  scatter.points = points;
  scatter.xLabel = ui.cost.selectedOptions[0]?.textContent ?? "";
  scatter.yLabel = plain(state.ui.quality);
  ui.scatterBox.hidden = points.length < 2;
  const words = points.filter(([at]) => at >= 0).map(([at, x, y]) => `${at + 1}: ${format(y)} at ${format(x)}`);
  ui.scatter.setAttribute("aria-label", `${scatter.yLabel} against ${scatter.xLabel}. ${words.join("; ")}`);
  ui.scatterHint.textContent = `${state.smaller() ? "lower" : "higher"} is better; rings are runs that are not ticked`;
  scatter.redraw();
}

function describe(ui, state, overlay) {
  const ends = state.ui.ticked.map((id, place) => {
    const series = overlay.get(id, "evaluation") ?? overlay.get(id, "train");
    const value = series ? ` ${format(series.line[series.length - 1])}` : ": nothing";
    return `${place + 1} ${state.called(id)}${value}`;
  });
  ui.overlay.setAttribute("aria-label", `Curves of ${plain(state.ui.curve)} by step. Last values: ${ends.join("; ")}`);
  overlay.yLabel = plain(state.ui.curve);
  overlay.empty = `No ${plain(state.ui.curve)} was recorded by step.`;
}

/** Light or dark, by the colour that the page gives to text. */
function followTheme(root) {
  const parts = getComputedStyle(root).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  root.dataset.theme = 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 140 ? "dark" : "light";
}

/** Pointer and arrow keys of the curves. */
function wireCurves(ui, overlay) {
  const read = (step) => {
    ui.readout.textContent = step === null || !overlay.xs ? "" : overlay.readOut(step);
    if (step === null) overlay.cursor = null;
    overlay.redraw();
  };
  ui.overlay.addEventListener("pointermove", (event) => {
    read(overlay.stepAt(event.clientX - ui.overlay.getBoundingClientRect().left) ?? null);
  });
  ui.overlay.addEventListener("pointerleave", () => read(null));
  ui.overlay.addEventListener("blur", () => read(null));
  ui.overlay.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || !overlay.xs) return;
    event.preventDefault();
    const width = Math.max(1, (overlay.xs[1] - overlay.xs[0]) / 100);
    read(overlay.cursor === null ? overlay.xs[1] : overlay.cursor + move * width);
  });
}

/** Messages to the kernel, one poll at a time, and what is said while it does not answer. */
class Line {
  constructor(model, ui) {
    this.view = `${Date.now()}-${Math.random()}`; // of several pages that show this table
    Object.assign(this, { model, ui, silent: 0, poll: 0, search: 0, settle: 0, waiting: 0, live: false });
  }

  say(message) {
    this.waiting += 1;
    clearTimeout(this.silent);
    this.silent = setTimeout(() => this.problem("Waiting for the kernel: a cell is running, or it is gone."), SILENT_MS);
    this.model.send({ ...message, view: this.view });
  }

  answered() {
    this.waiting = Math.max(0, this.waiting - 1);
    clearTimeout(this.silent);
  }

  problem(text) {
    this.ui.problem.textContent = text;
    this.ui.problem.hidden = !text;
  }

  /** Ask again soon, if something goes on and the page is seen. */
  follow(live, reading) {
    clearTimeout(this.poll);
    if (!live) return;
    const ask = () => (document.hidden || this.waiting ? this.follow(true, false) : this.say({ type: "poll" }));
    this.poll = setTimeout(ask, reading ? READ_MS : POLL_MS);
  }

  stop() {
    for (const timer of [this.silent, this.poll, this.search, this.settle]) clearTimeout(timer);
  }
}

function render({ model, el }) {
  const ui = build();
  el.append(ui.root);
  const state = new State();
  const line = new Line(model, ui);
  const overlay = new Overlay(ui.overlay, ui.root);
  const scatter = new Scatter(ui.scatter, ui.root);
  const tick = (id, on) => line.say({ type: "tick", id, on });
  const rows = new Rows(ui, state, tick);
  let [question, opened, table] = [null, {}, { lines: [], more: 0 }]; // `opened`: what the editor began with

  const settle = () => {
    clearTimeout(line.settle);
    line.settle = setTimeout(() => line.say({ type: "settle", search: state.search, sort: state.sort }), SETTLE_MS);
  };
  const draw = () => {
    if (!state.ui) return;
    rows.draw();
    drawChosen(ui, state, (id) => tick(id, false));
    drawTable(ui, state, table);
    overlay.keep(state.ui.ticked);
    describe(ui, state, overlay);
    overlay.redraw();
    drawScatter(ui, state, scatter);
  };
  const sortBy = (name) => {
    state.sort = state.sort === name ? `-${name}` : state.sort === `-${name}` ? "" : name;
    draw();
    settle();
  };
  for (const head of ui.heads) head.firstChild.addEventListener("click", () => sortBy(head.firstChild.dataset.name));
  ui.filter.addEventListener("input", () => {
    state.search = ui.filter.value;
    draw();
    clearTimeout(line.search);
    line.search = setTimeout(() => line.say({ type: "search", search: state.search }), SEARCH_MS);
    settle();
  });
  for (const what of ["quality", "curve", "cost"])
    ui[what].addEventListener("change", () => line.say({ type: "choose", what, value: ui[what].value }));
  ui.clear.addEventListener("click", () => line.say({ type: "clear" }));
  ui.refresh.addEventListener("click", () => line.say({ type: "poll" }));
  ui.close.addEventListener("click", () => line.say({ type: "close" }));
  ui.edit.addEventListener("click", () => line.say({ type: "edit", id: state.ui.ticked[0] }));
  ui.remove.addEventListener("click", () => line.say({ type: "ask", ids: state.ui.ticked }));
  const fold = (part, back) => {
    part.hidden = true;
    back.focus();
  };
  ui.cancel.addEventListener("click", () => fold(ui.editor, ui.edit));
  ui.no.addEventListener("click", () => fold(ui.question, ui.remove));
  ui.yes.addEventListener("click", () => {
    line.say({ type: "delete", token: question.token });
    ui.question.hidden = true;
    ui.filter.focus();
  });
  ui.editor.addEventListener("submit", (event) => {
    event.preventDefault();
    line.say({ type: "write", id: ui.editor.dataset.id, note: ui.note.value, tags: ui.tags.value, opened });
  });
  for (const [part, back] of [[ui.editor, ui.edit], [ui.question, ui.remove]])
    part.addEventListener("keydown", (event) => event.key === "Escape" && fold(part, back));
  wireCurves(ui, overlay);

  const hello = () => {
    state.sequence = null;
    line.say({ type: "hello" });
  };
  /** An answer to this page; what another one asked is its own affair. */
  const onAnswer = ({ answer, problem, edit, written, opened: newer, question: asked }) => {
    line.answered();
    line.problem(problem ?? "");
    if (newer) opened = newer;
    if (edit) {
      opened = { note: edit.note, tags: edit.tags };
      [ui.note.value, ui.tags.value, ui.editor.dataset.id] = [edit.note, edit.tags, edit.id];
      ui.editTitle.textContent = state.called(edit.id);
      ui.editor.hidden = false;
      ui.tags.focus();
    }
    if (written) fold(ui.editor, ui.edit);
    if (asked) {
      question = asked;
      ui.questionText.textContent = asked.text;
      ui.yes.textContent = asked.count === 1 ? "Delete this run for good" : `Delete these ${asked.count} runs for good`;
      ui.question.hidden = false;
      ui.no.focus();
    }
    if (!["poll", "search", "settle", "hello", "edit", "ask"].includes(answer)) settle();
    if (problem) draw(); // a box that was ticked in vain is unticked
  };
  const goOn = (reading) => {
    const live = [...state.rows.values()].some((row) => row.live);
    if (line.live && !live) settle(); // the last run has ended: the picture tells so
    line.live = live;
    line.follow(live, reading);
  };
  const onMessage = (message, buffers) => {
    if (message.gone) return removeWidget(model, message.gone);
    if (message.picture) return changePicture(model, `nbadapt-runs-${message.token}`, message.picture);
    if (message.answer !== undefined) {
      if (message.view === line.view) onAnswer(message);
      return goOn(message.reading);
    }
    if (message.full) {
      Object.assign(state, { ids: [], rows: new Map(), sequence: message.seq - 1 });
      overlay.series.clear();
      ui.hider.textContent = `.nbadapt-runs-${message.token.replace(/[^0-9a-f]/g, "")} { display: none; }`;
    }
    if (state.sequence === null) return;
    if (message.seq !== state.sequence + 1) return hello();
    state.sequence = message.seq;
    if (message.ui) {
      if (state.ui === null) [state.search, state.sort] = [message.ui.search, message.ui.sort];
      if (state.ui === null) ui.filter.value = state.search;
      state.ui = message.ui;
    }
    if (message.more !== undefined) state.more = message.more;
    if (message.found) state.found = message.found;
    if (message.ids) {
      state.ids = message.ids;
      const there = new Set(state.ids);
      for (const id of state.rows.keys()) if (!there.has(id)) state.rows.delete(id);
    }
    for (const row of message.rows ?? []) state.rows.set(row.id, row);
    if (message.table) table = message.table;
    if (message.curves?.length) {
      const view = buffers[0];
      const bytes = view ? view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) : new ArrayBuffer(0);
      overlay.read(message.curves, bytes);
    }
    draw();
  };

  const sizes = new ResizeObserver(() => (overlay.redraw(), scatter.redraw()));
  for (const canvas of [ui.overlay, ui.scatter]) sizes.observe(canvas);
  const recolour = () => {
    followTheme(ui.root);
    overlay.redraw();
    scatter.redraw();
  };
  ui.root.addEventListener("transitionend", recolour);
  const theme = new MutationObserver(recolour); // JupyterLab and VS Code mark the theme here
  for (const element of [document.documentElement, document.body]) theme.observe(element, { attributes: true });
  model.on("msg:custom", onMessage);
  followTheme(ui.root);
  hello();
  return () => {
    line.stop();
    sizes.disconnect();
    theme.disconnect();
    for (const plot of [overlay, scatter]) cancelAnimationFrame(plot.frame);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
