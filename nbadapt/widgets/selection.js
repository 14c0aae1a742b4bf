// A comparison at work; selection.py says what the messages hold. Texts reach the page through textContent only.

const SILENT_MS = 5000; // without a message by then, say so
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 250, MARGIN = { left: 56, right: 156, top: 12, bottom: 36 };
const NAME_LETTERS = 18; // of a name in the chart; its end says what is its own
const LABEL_PX = 14; // between two labels in the chart

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = `nbadapt-compare-${className}`;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(className, text, label) {
  const element = make("button", className, text);
  element.type = "button";
  if (label) element.setAttribute("aria-label", label);
  return element;
}

function build() {
  const ui = { root: make("section") };
  ui.root.className = "nbadapt-compare";
  ui.root.setAttribute("aria-label", "Comparison at work");
  ui.head = make("div", "head");
  ui.title = make("span", "title", "compare");
  ui.status = make("span", "status", "connecting");
  ui.status.setAttribute("role", "status");
  ui.views = make("select", "views");
  ui.views.setAttribute("aria-label", "What the chart shows");
  for (const [value, text] of [["score", "score by training rows"], ["loss", "training loss of the last run"]]) {
    const option = make("option", "", text);
    option.value = value;
    ui.views.append(option);
  }
  ui.stop = button("stop", "Stop all");
  ui.head.append(ui.title, ui.status, ui.views, ui.stop);
  ui.chart = make("div", "chart");
  ui.table = make("table");
  ui.table.createTHead();
  ui.table.append(make("tbody"));
  ui.scroll = make("div", "scroll");
  ui.scroll.append(ui.table);
  ui.form = make("form", "form");
  ui.input = make("input", "input");
  ui.input.setAttribute("aria-label", "Candidate to add, as a line of the cell");
  ui.input.placeholder = "METHOD: {SETTING: VALUE}";
  ui.add = button("add", "Add");
  ui.add.type = "submit";
  ui.form.append(ui.input, ui.add);
  ui.said = make("div", "said");
  ui.said.setAttribute("role", "status");
  ui.root.append(ui.head, ui.chart, ui.scroll, ui.form, ui.said);
  return ui;
}

function shape(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function number(value) {
  if (value === null || value === undefined) return "";
  return Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3);
}

/** The last point of a candidate's scores, or null. */
function last(candidate) {
  return candidate.points.length ? candidate.points[candidate.points.length - 1] : null;
}

function ordered(state) {
  const turn = state.larger ? -1 : 1;
  const rank = (c) => (last(c) ? [-last(c)[0], turn * last(c)[1]] : [1, 0]);
  return [...state.candidates].sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1]);
}

/** Round steps between two values. */
function ticks(low, high) {
  const raw = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

function draw(ui, state, chosen) {
  const loss = ui.views.value === "loss";
  const lines = state.candidates.map((c) => ({ c, points: loss ? c.losses : c.points })).filter((l) => l.points.length);
  const width = Math.max(300, ui.chart.clientWidth || 820);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
  svg.setAttribute("aria-label", `${loss ? "Training loss" : state.metric} of ${lines.length} candidates`);
  if (!lines.length) {
    svg.append(shape("text", { x: width / 2, y: HEIGHT / 2, class: "nbadapt-compare-axis", "text-anchor": "middle" },
      loss ? "no training loss yet" : "no score yet"));
    ui.chart.replaceChildren(svg);
    return;
  }
  const best = ordered(state)[0];
  const kind = (c) => (c.label === chosen.label ? "chosen" : c.state === "running" ? "running"
    : c === best ? "best" : c.baseline ? "baseline" : ["dropped", "failed", "stopped"].includes(c.state) ? "gone" : "other");
  const named = ["best", "running", "chosen"]; // these have their names and intervals drawn
  const xs = lines.flatMap((l) => l.points.map((p) => p[0]));
  const ys = lines.flatMap((l) => l.points.flatMap((p) => (loss || l.c !== best ? [p[1]] : p.slice(1))));
  const scale = (v) => (loss ? v : Math.log(v));
  let [x0, x1] = loss ? [0, 1] : [scale(Math.min(...xs)), scale(Math.max(...xs, state.rows))];
  if (x0 === x1) x0 -= 1;
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  const room = (y1 - y0) * 0.08 || 0.05;
  [y0, y1] = [y0 - room, y1 + room];
  const right = width - MARGIN.right, bottom = HEIGHT - MARGIN.bottom;
  const x = (v) => MARGIN.left + ((scale(v) - x0) / (x1 - x0)) * (right - MARGIN.left);
  const y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - MARGIN.top);
  for (const value of ticks(y0, y1)) {
    svg.append(shape("line", { x1: MARGIN.left, x2: right, y1: y(value), y2: y(value), class: "nbadapt-compare-grid" }));
    svg.append(shape("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end", class: "nbadapt-compare-axis" },
      Number(value.toPrecision(6)).toString()));
  }
  const marks = loss ? [0, 0.5, 1] : [...new Set(xs)].sort((a, b) => b - a);
  let edge = Infinity;
  for (const value of marks) {
    if (!loss && edge - x(value) < 48) continue;
    edge = x(value);
    svg.append(shape("text", { x: edge, y: bottom + 15, "text-anchor": "middle", class: "nbadapt-compare-axis" },
      loss ? `${100 * value} %` : value.toLocaleString("en")));
  }
  svg.append(shape("text", { x: (MARGIN.left + right) / 2, y: HEIGHT - 4, "text-anchor": "middle",
    class: "nbadapt-compare-axis" }, loss ? "share of the run" : "training rows"));
  svg.append(shape("text", { x: 12, y: (MARGIN.top + bottom) / 2, "text-anchor": "middle",
    transform: `rotate(-90 12 ${(MARGIN.top + bottom) / 2})`, class: "nbadapt-compare-axis" },
    loss ? "training loss (nats)" : `${state.metric} on validation rows`));
  const labels = [];
  const order = ["gone", "other", "baseline", "best", "running", "chosen"];
  for (const { c, points } of [...lines].sort((a, b) => order.indexOf(kind(a.c)) - order.indexOf(kind(b.c)))) {
    const path = points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join("");
    svg.append(shape("path", { d: path, "data-kind": kind(c), class: "nbadapt-compare-line" }));
    if (!loss && named.includes(kind(c))) for (const p of points.filter((p) => p.length > 2)) {
      const inside = (v) => Math.min(bottom, Math.max(MARGIN.top, y(v)));
      svg.append(shape("line", { x1: x(p[0]), x2: x(p[0]), y1: inside(p[2]), y2: inside(p[3]), "data-kind": kind(c),
        class: "nbadapt-compare-interval" }));
    }
    if (!loss) for (const p of points) {
      svg.append(shape("circle", { cx: x(p[0]), cy: y(p[1]), r: kind(c) === "gone" ? 2 : 3.2, "data-kind": kind(c),
        class: "nbadapt-compare-point" }));
    }
    if (named.includes(kind(c))) {
      const end = points[points.length - 1];
      labels.push({ c, at: [x(end[0]), y(end[1])] });
    }
  }
  labels.sort((a, b) => a.at[1] - b.at[1]);
  let above = -Infinity;
  for (const { c, at } of labels) {
    above = Math.max(at[1] + 4, above + LABEL_PX);
    const text = c.label.length > NAME_LETTERS ? `…${c.label.slice(1 - NAME_LETTERS)}` : c.label;
    svg.append(shape("text", { x: at[0] + 8, y: above, "data-kind": kind(c), class: "nbadapt-compare-name" }, text));
  }
  ui.chart.replaceChildren(svg);
}

function cell(row, className, text) {
  const element = make("td", className, text);
  row.append(element);
  return element;
}

function fill(ui, state, chosen, act) {
  const focus = document.activeElement;
  const kept = ui.table.contains(focus) ? focus.getAttribute("aria-label") : null;
  const head = make("tr");
  for (const name of ["candidate", "state", state.metric, "rows", ""]) head.append(make("th", "", name));
  ui.table.tHead.replaceChildren(head);
  const rows = ordered(state).map((c) => {
    const row = make("tr");
    row.dataset.state = c.state;
    row.dataset.label = c.label;
    row.dataset.chosen = c.label === chosen.label;
    row.onmouseenter = () => act.choose(c.label);
    const name = cell(row, "label", c.label + (c.baseline ? " (baseline)" : ""));
    name.title = c.note;
    const share = c.share === null ? "" : ` ${Math.round(100 * c.share)} %`;
    cell(row, "state", c.state + share);
    const score = cell(row, "number", last(c) ? number(last(c)[1]) : "");
    if (last(c) && last(c).length > 2) {
      score.append(make("span", "between", `${number(last(c)[2])} to ${number(last(c)[3])}`));
      score.title = "on the validation rows, with the 95 % interval";
    }
    cell(row, "number", last(c) ? last(c)[0].toLocaleString("en") : "");
    const actions = cell(row, "actions");
    const clone = button("clone", "Clone", `Clone ${c.label} with a change`);
    clone.onclick = () => act.clone(c);
    const drop = button("drop", "Stop", `Stop ${c.label}`);
    drop.disabled = !["waiting", "running"].includes(c.state);
    drop.onclick = () => act.drop(c);
    actions.append(clone, drop);
    return row;
  });
  ui.table.tBodies[0].replaceChildren(...rows);
  if (kept === null) return;
  const again = [...ui.table.querySelectorAll("button")].find((b) => b.getAttribute("aria-label") === kept);
  if (again && !again.disabled) again.focus({ preventScroll: true });
}

function followTheme(root) {
  const parts = getComputedStyle(root).color.match(/[\d.]+/g).map(Number);
  root.dataset.theme = 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 140 ? "dark" : "light";
}

const ENDED = ["done", "stopped", "failed"];

function render({ model, el }) {
  const ui = build();
  const chosen = { label: null };
  let state = null, silence = null, pressed = false;
  el.append(ui.root);
  const quiet = () => {
    clearTimeout(silence);
    if (state && ENDED.includes(state.state)) return;
    silence = setTimeout(() => (ui.status.textContent = "no news from the kernel"), SILENT_MS);
  };
  const act = {
    choose: (label) => {
      if (chosen.label === label) return;
      chosen.label = label;
      for (const row of ui.table.tBodies[0].rows) row.dataset.chosen = row.dataset.label === label;
      draw(ui, state, chosen);
    },
    clone: (c) => {
      ui.input.value = c.text;
      ui.input.focus();
      ui.said.textContent = "Change a setting, then Add.";
    },
    drop: (c) => model.send({ type: "drop", place: c.place }),
  };
  const hear = (message) => {
    state = message;
    const over = ENDED.includes(state.state);
    ui.status.textContent = [state.state, state.elapsed, state.left ? `${state.left} left` : ""].filter(Boolean).join(" · ");
    ui.title.textContent = `compare · ${state.candidates.length} candidates`;
    ui.stop.disabled = ui.add.disabled = ui.input.disabled = over;
    if (state.said) ui.said.textContent = state.said;
    if (!pressed || over) fill(ui, state, chosen, act); // a button that is being pressed stays
    draw(ui, state, chosen);
    quiet();
  };
  model.on("msg:custom", hear);
  ui.stop.onclick = () => model.send({ type: "stop" });
  ui.views.onchange = () => state && draw(ui, state, chosen);
  const hold = () => (pressed = true);
  const release = () => (pressed = false);
  for (const name of ["pointerdown", "keydown"]) ui.table.addEventListener(name, hold);
  for (const name of ["pointerup", "pointercancel", "keyup", "blur"]) window.addEventListener(name, release);
  ui.table.onmouseleave = () => state && act.choose(null);
  ui.form.onsubmit = (event) => {
    event.preventDefault();
    if (!ui.input.value.trim()) return;
    ui.said.textContent = "Looking it up …";
    model.send({ type: "add", text: ui.input.value });
  };
  const recolour = () => followTheme(ui.root);
  const theme = new MutationObserver(recolour); // JupyterLab and VS Code mark the theme here
  for (const element of [document.documentElement, document.body]) theme.observe(element, { attributes: true });
  ui.root.addEventListener("transitionend", recolour);
  const size = new ResizeObserver(() => state && draw(ui, state, chosen));
  size.observe(ui.chart);
  recolour();
  model.send({ type: "hello" });
  quiet();
  return () => {
    for (const name of ["pointerup", "pointercancel", "keyup", "blur"]) window.removeEventListener(name, release);
    theme.disconnect();
    size.disconnect();
    clearTimeout(silence);
    model.off("msg:custom", hear);
  };
}

export default { render };
