// The method form, an anywidget module that follows notebook.js and fields.js. widgets/form.py says what the messages are.
// Data reaches the page through textContent and values of inputs only, never as HTML.

const SETTLE_MS = 1500; // of quiet before the picture for the saved notebook is drawn anew
const FIND_MS = 500; // between two looks for a dashboard that this page may not know yet
const MOST_LOOKS = 20;
const METHOD = "method";
const PROMPT = "prompt-text";

/** The elements of the form, empty. */
function build() {
  const ui = { root: make("section"), fields: new Map() };
  ui.root.className = "nbadapt nbadapt-form";
  keepKeys(ui.root);
  ui.root.setAttribute("aria-label", "Method form");
  ui.hider = document.createElement("style"); // hides the static picture for as long as this view is there
  ui.below = make("div", "run-below"); // the dashboard, where the page has lost the place of it
  ui.head = make("div", "form-head");
  ui.methodLabel = make("label", "", "method");
  ui.method = make("select");
  ui.method.id = ui.methodLabel.htmlFor = freshId();
  ui.summary = make("div", "summary");
  const first = make("div");
  first.append(ui.methodLabel, ui.method);
  ui.head.append(first, ui.summary);
  ui.mainOptions = make("div", "grid");
  ui.prompt = make("div", "field");
  ui.mainSettings = make("div", "grid");
  const folded = (title) => {
    const box = make("details");
    const grid = make("div", "grid");
    box.append(make("summary", "", title), grid);
    return [box, grid];
  };
  [ui.moreSettings, ui.moreSettingsGrid] = folded("More settings of the method");
  [ui.moreOptions, ui.moreOptionsGrid] = folded("More options");
  ui.hint = make("div", "hint");
  ui.hint.setAttribute("aria-hidden", "true"); // screen readers have it with the field itself
  buildCosts(ui);
  ui.acts = make("div", "acts");
  ui.run = button("run", "Run");
  ui.stop = button("stop-run", "Stop the run");
  ui.stop.hidden = true;
  ui.insert = button("insert", "Insert cell");
  ui.copy = button("copy", "Copy cell");
  ui.insert.hidden = true;
  ui.run.disabled = true;
  ui.said = make("div", "said");
  ui.said.setAttribute("role", "status");
  ui.said.textContent = "connecting …";
  ui.acts.append(ui.run, ui.stop, ui.insert, ui.copy, ui.said);
  ui.cellBox = make("details");
  ui.cell = make("pre", "cell");
  ui.cell.tabIndex = 0;
  ui.cell.setAttribute("aria-label", "The cell that does the same");
  ui.cellBox.open = true;
  ui.cellBox.append(make("summary", "", "The cell that does the same"), ui.cell);
  ui.root.append(ui.hider, ui.head, ui.mainOptions, ui.prompt, ui.mainSettings, ui.moreSettings, ui.moreOptions);
  ui.root.append(ui.hint, ui.costs, ui.acts, ui.cellBox);
  return ui;
}

function buildCosts(ui) {
  ui.costs = make("div", "costs");
  ui.costs.setAttribute("role", "region");
  ui.costs.hidden = true;
  ui.costs.setAttribute("aria-label", "What it will cost");
  ui.rows = make("dl");
  ui.rows.setAttribute("aria-live", "polite");
  ui.bar = make("div", "bar");
  ui.bar.setAttribute("role", "meter");
  ui.bar.setAttribute("aria-label", "Predicted peak memory of what is free");
  ui.bar.append(make("div"));
  ui.remarks = make("ul");
  ui.costs.append(make("h4", "", "What it will cost"), ui.rows, ui.bar, ui.remarks);
}

const PROMPT_FIELD = {
  name: PROMPT,
  label: "prompt",
  kind: "area",
  help: "what the model reads; {{name}} stands for a variable or a column",
  allowed: "",
  choices: [],
  stops: [],
};

// ---------------------------------------------------------------------------------------------- messages

function drawForm(ui, message, onInput) {
  ui.hider.textContent = `.nbadapt-form-${message.token.replace(/[^0-9a-f]/g, "")} { display: none; }`;
  ui.verb = message.verb;
  ui.id = message.id;
  ui.root.setAttribute("aria-label", `Form of %${message.verb}`);
  ui.method.replaceChildren(
    ...message.menu.map(({ family, items }) => {
      const group = make("optgroup");
      group.label = family;
      group.append(...items.map(([name, summary, ready]) => option(name, `${name} – ${summary}${ready ? "" : " (not installed)"}`)));
      return group;
    }),
  );
  ui.method.value = message.method;
  ui.fields.clear();
  const places = [ui.mainOptions, ui.mainSettings, ui.moreOptionsGrid, ui.moreSettingsGrid];
  for (const place of places) place.replaceChildren();
  for (const field of message.fields) {
    const made = buildField(field, message.offers[field.name], onInput);
    made.write(message.values[field.name]);
    places[(field.advanced ? 2 : 0) + (field.option ? 0 : 1)].append(made.box);
    ui.fields.set(field.name, made);
  }
  ui.summary.textContent = message.summary;
  ui.moreSettings.hidden = !ui.moreSettingsGrid.children.length;
  ui.prompt.replaceChildren();
  ui.prompt.hidden = message.verb !== "prompt";
  if (message.verb === "prompt") {
    const made = buildField(PROMPT_FIELD, [], onInput);
    made.write(message.values[PROMPT]);
    ui.prompt.append(made.box);
    ui.fields.set(PROMPT, made);
  }
}

function drawState(ui, message) {
  for (const [name, made] of ui.fields) {
    const error = message.errors[name];
    made.mark(error);
    if (error && made.field.advanced) made.box.closest("details").open = true;
  }
  ui.run.disabled = !message.ready;
  ui.stop.hidden = !message.busy || ui.below.hasChildNodes(); // a dashboard has its own
  ui.stop.disabled = false;
  ui.said.textContent = message.pending ? "Working out what it will cost …" : message.reason;
  ui.cell.textContent = message.cell || "It appears when the marked fields are mended.";
  ui.insert.disabled = ui.copy.disabled = !message.cell;
  ui.costs.dataset.stale = String(!message.figures.length); // the last ones stay, dimmed: nothing jumps
  ui.costs.dataset.working = String(message.working);
  if (!message.figures.length) return;
  ui.costs.hidden = false;
  const rows = message.figures.map(([label, text]) => {
    const box = make("div");
    box.append(make("dt", "", label), make("dd", "", text));
    return box;
  });
  ui.rows.replaceChildren(...rows);
  ui.bar.hidden = !message.bar;
  if (message.bar) {
    const [peak, free] = message.bar;
    ui.bar.firstChild.style.width = `${Math.min(100, (100 * peak) / Math.max(free, 1))}%`;
    ui.bar.dataset.over = String(peak > free);
    ui.bar.setAttribute("aria-valuemin", "0");
    ui.bar.setAttribute("aria-valuemax", String(free));
    ui.bar.setAttribute("aria-valuenow", String(Math.min(peak, free)));
    ui.bar.setAttribute("aria-valuetext", `${Math.round((100 * peak) / Math.max(free, 1))} % of what is free`);
  }
  ui.remarks.replaceChildren(...message.remarks.map((text) => make("li", "", text)));
}

// ---------------------------------------------------------------------------------------------- the cell

/** Show the dashboard of a run below the form; false where the host gives no way to. */
async function showRun(model, ui, id, looks = MOST_LOOKS) {
  const manager = model.widget_manager;
  if (typeof manager?.get_model !== "function" || typeof manager.create_view !== "function") return false;
  try {
    const view = await manager.create_view(await manager.get_model(id));
    ui.below.replaceChildren(view.el);
    return true;
  } catch {
    if (!looks) return false; // a page that was just loaded learns of its widgets one by one
    await new Promise((resolve) => setTimeout(resolve, FIND_MS));
    return showRun(model, ui, id, looks - 1);
  }
}

async function copyText(ui) {
  try {
    await navigator.clipboard.writeText(ui.cell.textContent);
  } catch {
    ui.cellBox.open = true; // no clipboard without a secure page: mark the text, and copy it the old way
    getSelection().selectAllChildren(ui.cell);
    if (!document.execCommand("copy")) return "The text is marked: copy it with Ctrl+C.";
  }
  return "Copied.";
}

// ---------------------------------------------------------------------------------------------- the host

function render({ model, el }) {
  const ui = build();
  el.append(ui.root, ui.below);
  const view = `${Date.now()}-${Math.random()}`; // of several pages that show this form
  const sent = { seq: 0, waiting: false, changes: {}, timer: 0, told: false, settle: 0, run: "" };

  const flush = () => {
    clearTimeout(sent.timer);
    if (sent.waiting || !Object.keys(sent.changes).length) return; // one question at a time: the answer sends the next
    sent.waiting = true;
    model.send({ type: "set", view, seq: ++sent.seq, values: sent.changes });
    sent.changes = {};
  };
  const onInput = (name, slowly) => {
    sent.changes[name] = ui.fields.get(name).read();
    clearTimeout(sent.timer);
    sent.timer = setTimeout(flush, slowly ? TYPED_MS : SLID_MS);
  };
  const takeValues = (values) => {
    for (const [name, made] of ui.fields) {
      const held = made.box.contains(document.activeElement) || name in sent.changes;
      if (!held && made.read() !== values[name]) made.write(values[name]);
    }
  };
  /** Draw the fields of a method, which another tab may have chosen: what is typed here just now stays. */
  const takeForm = (message) => {
    const [name, made] = [...ui.fields].find(([, one]) => one.box.contains(document.activeElement)) ?? [];
    if (made) message.values[name] = made.read();
    drawForm(ui, { ...message, values: { ...message.values, ...sent.changes } }, onInput);
    if (made) ui.fields.get(name)?.main.focus();
  };
  const onMessage = (message) => {
    sent.told = true;
    if (message.type === "form") {
      if (message.view && message.view !== view && ui.id) return; // another page has just come
      takeForm(message);
    } else if (message.type === "offers") {
      for (const [name, words] of Object.entries(message.offers)) {
        const made = ui.fields.get(name);
        if (made && !made.box.contains(document.activeElement)) made.offer(words);
      }
    } else if (message.type === "state") {
      if (message.view === view && message.seq === sent.seq) sent.waiting = false;
      drawState(ui, message);
      if (!sent.waiting) takeValues(message.values);
      flush();
      clearTimeout(sent.settle);
      if (!message.pending) sent.settle = setTimeout(() => model.send({ type: "settle" }), SETTLE_MS);
    } else if (message.type === "run" && message.dashboard !== sent.run) {
      sent.run = message.dashboard;
      showRun(model, ui, message.dashboard).then((there) => {
        if (there) ui.stop.hidden = true;
      });
    }
  };
  ui.root.addEventListener("focusin", (event) => {
    const box = event.target.closest(".nbadapt-field");
    ui.hint.textContent = box ? `${box.querySelector("label").textContent}: ${box.querySelector(".nbadapt-help").textContent}` : "";
  });
  ui.method.addEventListener("input", () => {
    sent.changes[METHOD] = ui.method.value;
    flush();
  });
  let asked = -Infinity;
  ui.root.addEventListener("pointerenter", () => {
    if (performance.now() - asked < 3000 || sent.waiting) return; // tables may have been made since
    asked = performance.now();
    model.send({ type: "offers" });
  });
  ui.run.addEventListener("click", () => {
    ui.run.disabled = true; // until the kernel answers
    ui.said.textContent = "starting …";
    clearTimeout(sent.timer);
    model.send({ type: "run", view, seq: ++sent.seq, values: sent.changes });
    sent.changes = {};
    sent.waiting = true;
  });
  ui.stop.addEventListener("click", () => {
    ui.stop.disabled = true;
    model.send({ type: "stop" });
  });
  ui.insert.addEventListener("click", () => {
    const notebook = notebookOf(model);
    if (notebook) insertCell(notebook, ui.id, ui.cell.textContent);
    ui.said.textContent = notebook ? "Inserted below." : "This page gives no way to insert: copy the cell.";
  });
  ui.copy.addEventListener("click", async () => {
    ui.said.textContent = await copyText(ui);
  });
  ui.insert.hidden = !notebookOf(model);

  const recolour = () => followTheme(ui);
  ui.root.addEventListener("transitionend", recolour);
  const theme = new MutationObserver(recolour); // JupyterLab and VS Code mark the theme here
  for (const element of [document.documentElement, document.body]) theme.observe(element, { attributes: true });
  const silent = setTimeout(() => {
    if (!sent.told) ui.said.textContent = "The kernel does not answer: it is busy or gone.";
  }, SILENT_MS);
  model.on("msg:custom", onMessage);
  followTheme(ui);
  model.send({ type: "hello", view, seq: 0 });
  return () => {
    clearTimeout(silent);
    clearTimeout(sent.timer);
    clearTimeout(sent.settle);
    theme.disconnect();
    model.off("msg:custom", onMessage);
  };
}

export default { render };
