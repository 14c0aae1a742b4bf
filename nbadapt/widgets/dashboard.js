// The live dashboard of one run, an anywidget module that follows chart.js and controls.js. feed.py says what the
// messages hold.
// Data reaches the page through textContent and a canvas only, never as HTML.

const ASK_AGAIN_MS = 1000; // how long to wait for a full message before asking once more
const SILENT_MS = 4000; // without any message by then, say so

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = `nbadapt-${className}`;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The elements of the dashboard, empty. */
function build() {
  const ui = { root: make("section"), head: make("div", "head"), bar: make("div", "bar") };
  ui.root.className = "nbadapt";
  ui.root.setAttribute("aria-label", "Run");
  keepKeys(ui.root);
  ui.title = make("span", "title");
  ui.state = make("span", "state", "connecting");
  ui.state.setAttribute("role", "status");
  ui.stage = make("span", "stage");
  ui.pause = make("button", "pause", "Pause");
  ui.stop = make("button", "stop", "Stop");
  for (const button of [ui.pause, ui.stop]) {
    button.type = "button";
    button.disabled = true;
  }
  const buttons = make("div", "buttons");
  buttons.append(ui.pause, ui.stop);
  ui.head.append(ui.title, ui.state, ui.stage, buttons);

  ui.bar.setAttribute("role", "progressbar");
  ui.bar.setAttribute("aria-label", "Progress");
  ui.bar.setAttribute("aria-valuemin", "0");
  ui.fill = make("div");
  ui.bar.append(ui.fill);

  buildChart(ui);
  buildControls(ui);
  ui.panels = make("div", "panels");
  ui.charts = new Map(); // key of a panel -> its chart
  ui.figures = make("dl", "figures");
  ui.ranking = make("details", "ranking");
  ui.ranking.open = true;
  ui.rankingTitle = make("summary");
  ui.rankingTable = make("table");
  ui.ranking.append(ui.rankingTitle, ui.rankingTable);
  ui.sources = make("div", "sources");
  ui.samples = make("details", "samples");
  ui.samples.open = true;
  ui.samplesTitle = make("summary");
  ui.samplesList = make("div");
  ui.samples.append(ui.samplesTitle, ui.samplesList);
  ui.notices = make("ul", "notices");
  ui.notices.setAttribute("aria-label", "Notices");
  ui.chartBox.hidden = ui.ranking.hidden = ui.samples.hidden = ui.bar.hidden = true;
  ui.root.append(ui.head, ui.bar, ui.controls, ui.replies, ui.chartBox, ui.changes, ui.panels, ui.figures);
  ui.root.append(ui.ranking, ui.sources, ui.samples, ui.notices);
  return ui;
}

/** A text that opens on a click. */
function folded(title, text) {
  const element = make("details", "folded");
  element.append(make("summary", "", title), make("div", "", text));
  return element;
}

function buildChart(ui) {
  ui.chartBox = make("div", "chart");
  ui.canvas = make("canvas");
  ui.canvas.tabIndex = 0;
  ui.canvas.setAttribute("role", "img");
  const legend = make("div", "legend");
  const key = (name, text) => {
    const item = make("span", "key", text);
    item.dataset.key = name;
    legend.append(item);
    return item;
  };
  ui.rawKey = key("raw", "training");
  ui.smoothKey = key("smooth", "training, smoothed");
  ui.evaluationKey = key("evaluation", "evaluation");
  const smoothing = make("label", "smoothing", "smoothing");
  ui.smoothing = make("input");
  Object.assign(ui.smoothing, { type: "range", min: 0, max: 20, step: 1, value: 4 }); // % of the run's steps
  ui.smoothing.setAttribute("aria-label", "Smoothing, in steps");
  ui.smoothingText = make("output");
  smoothing.append(ui.smoothing, ui.smoothingText);
  ui.smoothingBox = smoothing;
  legend.append(smoothing);
  ui.readout = make("div", "readout");
  ui.readout.setAttribute("role", "status");
  ui.chartBox.append(ui.canvas, legend, ui.readout);
}

const show = {
  ...showControls,

  head(ui, head) {
    ui.title.textContent = head.title;
    ui.state.textContent = head.state;
    ui.state.dataset.state = head.state;
    ui.stage.textContent = (head.finished && head.reason) || head.stage;
    ui.root.setAttribute("aria-label", `Run ${head.title}`);
    ui.pause.hidden = ui.stop.hidden = head.finished;
    ui.controls.classList.toggle("nbadapt-over", head.finished);
    const held = head.state === "paused" || head.state === "pausing";
    ui.pause.textContent = held ? "Resume" : "Pause";
    ui.pause.disabled = ui.stop.disabled = head.state === "stopping";
    ui.chartBox.hidden = !head.chart;
  },

  progress(ui, [step, total]) {
    ui.bar.hidden = !total;
    ui.fill.style.width = `${total ? Math.min(100, (100 * step) / total) : 0}%`;
    ui.bar.setAttribute("aria-valuemax", total);
    ui.bar.setAttribute("aria-valuenow", step);
    ui.bar.setAttribute("aria-valuetext", `step ${step} of ${total}`);
  },

  /** Charts are kept: their points come apart from what they are called. */
  panels(ui, rows) {
    for (const [key, label, latest] of rows) {
      if (!ui.charts.has(key)) {
        const box = make("figure", "panel");
        const canvas = make("canvas");
        canvas.setAttribute("role", "img");
        box.append(make("figcaption"), canvas);
        ui.panels.append(box);
        ui.charts.set(key, new Chart(canvas, ui.root, { label: "", compact: true }));
      }
      const { canvas } = ui.charts.get(key);
      canvas.previousSibling.textContent = latest ? `${label}: ${latest}` : label;
      canvas.setAttribute("aria-label", `Chart of ${label} by step${latest ? `, latest ${latest}` : ""}`);
    }
  },

  /** Cells are kept and only their changed texts set: new ones would lay the page out again at every update. */
  figures(ui, rows) {
    const cells = ui.figures.children;
    while (cells.length > rows.length) ui.figures.lastChild.remove();
    rows.forEach(([label, text], i) => {
      if (!cells[i]) {
        const cell = make("div", "");
        cell.append(make("dt", "", ""), make("dd", "", ""));
        ui.figures.append(cell);
      }
      const [name, figure] = cells[i].children;
      if (name.textContent !== label) name.textContent = label;
      if (figure.textContent !== text) figure.textContent = text;
      cells[i].classList.toggle("nbadapt-wide", text.length > 18);
    });
  },

  ranking(ui, { head, rows, more }) {
    ui.ranking.hidden = !rows.length;
    ui.rankingTitle.textContent = `Prompts compared${more ? ` (${rows.length} of ${rows.length + more})` : ""}`;
    const line = (tag, cells) => {
      const row = make("tr");
      row.append(...cells.map((cell) => make(tag, "", cell)));
      return row;
    };
    ui.rankingTable.replaceChildren(line("th", head), ...rows.map((cells) => line("td", cells)));
  },

  sources(ui, { more, items }) {
    ui.sources.replaceChildren(...items.map(([number, title, text]) => folded(`[${number}] ${title}`, text)));
    if (more) ui.sources.append(make("div", "", `and ${more} more passages`));
  },

  samples(ui, { step, more, items }) {
    ui.samples.hidden = !items.length;
    const rest = more ? ` (${items.length} of ${items.length + more})` : "";
    ui.samplesTitle.textContent = `Samples at step ${step}${rest}`;
    ui.samplesList.replaceChildren(
      ...items.map(([input, output, expected, reasoning, before]) => {
        const list = make("dl", "sample");
        list.append(make("dt", "", "input"), make("dd", "", input));
        if (before !== null) list.append(make("dt", "", "before"), make("dd", "", before));
        list.append(make("dt", "", "output"), make("dd", "output", output));
        if (reasoning) {
          const said = make("dd");
          said.append(folded("reasoning", reasoning));
          list.append(make("dt"), said);
        }
        if (expected !== null) list.append(make("dt", "", "expected"), make("dd", "", expected));
        return list;
      }),
    );
  },

  notices(ui, notices) {
    ui.notices.replaceChildren(
      ...notices.map(([level, text]) => {
        const item = make("li", "", text);
        item.dataset.level = level;
        item.dataset.label = { warning: "Warning", error: "Error" }[level] ?? "Note";
        return item;
      }),
    );
  },
};

/** Put the points of a message into the chart's series. */
function takeSeries(ui, chart, message, buffers) {
  if (message.full) for (const c of [chart, ...ui.charts.values()]) for (const s of [c.train, c.evaluation]) s.clear();
  if (!message.series.length) return;
  const view = buffers[0];
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength); // aligned to 4 bytes
  let offset = 0;
  for (const [key, n] of message.series) offset = (ui.charts.get(key)?.train ?? chart[key]).read(bytes, offset, n);
}

/** Light or dark, by the colour that the page gives to text. */
function followTheme(ui, chart) {
  const parts = getComputedStyle(ui.root).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  ui.root.dataset.theme = 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 140 ? "dark" : "light";
  for (const one of [chart, ...ui.charts.values()]) one.redraw();
}

function describe(ui, chart) {
  const last = (s, values) => (s.length ? format(values[s.length - 1]) : null);
  const train = last(chart.train, chart.train.mean);
  const evaluation = last(chart.evaluation, chart.evaluation.mean);
  const parts = ["Chart of loss by step"];
  if (train) parts.push(`training loss ${train}`);
  if (evaluation) parts.push(`evaluation loss ${evaluation}`);
  ui.canvas.setAttribute("aria-label", parts.join(", "));
  ui.smoothingBox.hidden = ui.rawKey.hidden = !chart.train.length;
  ui.smoothKey.hidden = !chart.train.length || !chart.window;
  ui.evaluationKey.hidden = !chart.evaluation.length;
}

/** How far back the smoothing reaches, in words: never further than the steps that are done. */
function windowText(window, done) {
  if (!window) return "off";
  if (window > done) return "all steps so far";
  return `${window >= 10 ? Math.round(window) : Number(window.toFixed(1))} steps`;
}

/** Pointer, arrow keys and slider of the chart. */
function wireChart(ui, chart, shown) {
  const read = (step) => {
    ui.readout.textContent = step === null || !chart.xs ? "" : chart.readOut(step);
    if (step === null) chart.cursor = null;
    chart.redraw();
  };
  ui.canvas.addEventListener("pointermove", (event) => {
    read(chart.stepAt(event.clientX - ui.canvas.getBoundingClientRect().left) ?? null);
  });
  ui.canvas.addEventListener("pointerleave", () => read(null));
  ui.canvas.addEventListener("blur", () => read(null));
  ui.canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const series = chart.train.length ? chart.train : chart.evaluation;
    if (!move || !series.length) return;
    event.preventDefault();
    const at = chart.cursor === null ? series.length - 1 : series.nearest(chart.cursor) + move;
    read(series.step[Math.max(0, Math.min(series.length - 1, at))]);
  });
  const setWindow = () => {
    const steps = Math.max(shown.total, chart.steps?.[1] ?? 0);
    chart.window = (steps * ui.smoothing.value) / 100;
    ui.smoothingText.textContent = windowText(chart.window, chart.steps?.[1] ?? 0);
    describe(ui, chart);
    for (const one of ui.charts.values()) one.window = chart.window;
    for (const one of [chart, ...ui.charts.values()]) one.redraw();
  };
  ui.smoothing.addEventListener("input", setWindow);
  return setWindow;
}

function render({ model, el }) {
  const ui = build();
  el.append(ui.root);
  const chart = new Chart(ui.canvas, ui.root);
  const shown = { sequence: null, asked: 0, total: 0, state: "" }; // sequence null: waits for a full message
  const setWindow = wireChart(ui, chart, shown);

  const hello = () => {
    shown.sequence = null;
    shown.asked = performance.now();
    model.send({ type: "hello" });
  };
  const onMessage = (message, buffers) => {
    if (!message.full && message.seq !== (shown.sequence ?? NaN) + 1) {
      if (shown.sequence !== null || performance.now() - shown.asked > ASK_AGAIN_MS) hello();
      return;
    }
    shown.sequence = message.seq;
    if (message.head) shown.state = message.head.state;
    if (message.progress) shown.total = message.progress[1];
    if (message.panels) show.panels(ui, message.panels); // before their points
    takeSeries(ui, chart, message, buffers);
    if (message.changes) chart.marks = message.changes.marks;
    for (const [section, draw] of Object.entries(show)) if (message[section]) draw(ui, message[section]);
    setWindow();
  };
  wireControls(ui, (message) => model.send(message));
  const press = (button, type) => {
    button.disabled = true; // until the kernel answers
    model.send({ type });
  };
  ui.stop.addEventListener("click", () => press(ui.stop, "stop"));
  ui.pause.addEventListener("click", () => {
    const held = shown.state === "paused" || shown.state === "pausing";
    press(ui.pause, held ? "resume" : "pause");
  });

  const size = new ResizeObserver(() => [chart, ...ui.charts.values()].forEach((one) => one.redraw()));
  size.observe(ui.canvas);
  const recolour = () => followTheme(ui, chart);
  ui.root.addEventListener("transitionend", recolour);
  const theme = new MutationObserver(recolour); // JupyterLab and VS Code mark the theme here
  for (const element of [document.documentElement, document.body]) theme.observe(element, { attributes: true });
  const silent = setTimeout(() => {
    if (shown.sequence === null) ui.stage.textContent = "The kernel does not answer: it is busy or gone.";
  }, SILENT_MS);
  model.on("msg:custom", onMessage);
  followTheme(ui, chart);
  hello();
  return () => {
    clearTimeout(silent);
    size.disconnect();
    theme.disconnect();
    for (const one of [chart, ...ui.charts.values()]) cancelAnimationFrame(one.frame);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
