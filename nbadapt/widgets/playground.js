// The playground, an anywidget module that follows notebook.js and fields.js. widgets/playground.py says what the
// messages are. Data reaches the page through textContent and values of inputs only, never as HTML.

const FAINT = 0.05; // of the heaviest word's weight: less than that is not marked
const LEAST = 0.001; // a weight that is told
const HEAD = { waiting: "not asked yet", loading: "loading the model …", working: "writing …", done: "", stopped: "stopped", failed: "failed" };

/** The elements of the widget, empty. */
function build() {
  const ui = { root: make("section"), fields: new Map(), columns: [] };
  ui.root.className = "nbadapt nbadapt-form nbadapt-play";
  ui.root.setAttribute("aria-label", "Playground");
  keepKeys(ui.root);
  ui.hider = document.createElement("style"); // hides the static picture for as long as this view is there
  ui.title = make("div", "title", "Playground");
  const promptBox = make("div", "field");
  const label = make("label", "", "prompt");
  ui.prompt = make("textarea");
  ui.prompt.id = label.htmlFor = freshId();
  ui.prompt.rows = 3;
  ui.prompt.setAttribute("aria-keyshortcuts", "Control+Enter");
  promptBox.append(label, ui.prompt);
  ui.grid = make("div", "grid");
  ui.acts = make("div", "acts");
  ui.ask = button("run", "Ask");
  ui.ask.title = "Ctrl+Enter";
  ui.stop = button("stop", "Stop");
  ui.close = button("close", "Close");
  ui.ask.disabled = ui.stop.disabled = true;
  ui.said = make("div", "said", "connecting …");
  ui.said.setAttribute("role", "status");
  ui.acts.append(ui.ask, ui.stop, ui.said, ui.close);
  ui.asked = make("div", "words-key asked"); // a prompt of another page that is not in the field of this one
  ui.answers = make("div", "answers");
  ui.legend = make("div", "legend");
  ui.kept = make("div", "kept");
  ui.keptText = make("span");
  ui.keptText.setAttribute("role", "status");
  ui.undo = button("undo", "Undo");
  ui.kept.append(ui.keptText, ui.undo);
  ui.kept.hidden = true;
  ui.root.append(ui.hider, ui.title, promptBox, ui.grid, ui.acts, ui.asked, ui.answers, ui.legend, ui.kept);
  return ui;
}

/** One player's column. */
function buildColumn(player, place, onBest) {
  const box = make("article", "answer");
  box.setAttribute("aria-label", `${player.name}, ${player.about}`);
  const head = make("div", "answer-head");
  const name = make("b", "", player.name);
  const state = make("span", "answer-state", HEAD.waiting);
  head.append(name, " ", make("span", "answer-about", player.about), state);
  const body = make("div", "text");
  body.tabIndex = 0; // long texts scroll, with keys too
  body.setAttribute("role", "group");
  body.setAttribute("aria-label", `What ${player.name} says`);
  const line = make("div", "answer-line");
  const best = button("best", "This is better");
  best.setAttribute("aria-label", `${player.name}: this answer is better`);
  best.hidden = true;
  best.addEventListener("click", () => onBest(place));
  const foot = make("div", "answer-foot");
  foot.append(line, best);
  box.append(head, body, foot);
  return { box, state, body, line, best, writes: player.kind === "generate" };
}

// ---------------------------------------------------------------------------------------------- an answer

function drawText(made, column) {
  made.body.replaceChildren(
    ...column.segments.map(([text, differs]) => make(differs ? "ins" : "span", differs ? "differs" : "", text)),
  );
  if (column.state === "working") made.body.scrollTop = made.body.scrollHeight;
}

function bar(name, p) {
  const row = make("div", "class");
  const track = make("div", "track");
  const fill = make("div");
  fill.style.width = `${100 * p}%`;
  track.append(fill);
  track.setAttribute("aria-hidden", "true"); // the figure says it
  row.append(make("span", "class-name", name), track, make("span", "class-share", p.toFixed(3)));
  return row;
}

const signed = (weight) => `${weight < 0 ? "−" : "+"}${Math.abs(weight).toFixed(3)}`;

function drawClasses(made, column) {
  const parts = column.bars.map(([name, p]) => bar(name, p));
  if (column.more) parts.push(make("div", "", `and ${column.more} more classes`));
  if (column.words.length) {
    const most = Math.max(...column.words.map(([, weight]) => Math.abs(weight ?? 0)));
    const text = make("div", "words");
    text.append(
      ...column.words.map(([word, weight]) => {
        const part = make("span", "", word);
        if (weight === null) return part;
        part.title = `without it: ${signed(-weight)}`;
        if (Math.abs(weight) < Math.max(LEAST, FAINT * most)) return part;
        part.className = weight > 0 ? "nbadapt-for" : "nbadapt-against";
        part.style.setProperty("--weight", (0.1 + (0.35 * Math.abs(weight)) / most).toFixed(2));
        return part;
      }),
    );
    const key = make("div", "words-key");
    key.append("underlined: speaks ", make("span", "for", "for"), " or ", make("span", "against", "against"), ` ${column.about_class}`);
    const falls = `Without the word, the probability of ${column.about_class} falls by`;
    const list = make("table", "top");
    list.setAttribute("aria-label", falls);
    for (const [word, weight] of column.top) {
      const row = make("tr");
      const head = make("th", "", word);
      head.scope = "row";
      row.append(head, make("td", "", signed(weight)));
      list.append(row);
    }
    if (column.top.length) parts.push(text, key, make("div", "words-key", falls), list);
    else parts.push(text, make("div", "words-key", `No word changes the probability of ${column.about_class} by as much as ${LEAST}.`));
  }
  made.body.replaceChildren(...parts);
}

function drawColumn(ui, column) {
  const made = ui.columns[column.place];
  if (!made) return;
  made.box.dataset.state = column.state;
  made.box.dataset.best = String(column.best);
  made.box.setAttribute("aria-busy", String(column.state === "working"));
  const busy = column.kind === "classify" && column.state === "working" ? "working …" : HEAD[column.state];
  made.state.textContent = column.best ? "✓ better" : busy;
  if (column.kind === "classify") drawClasses(made, column);
  else drawText(made, column);
  made.line.textContent = [column.line, column.note].filter(Boolean).join(" · ");
}

// ---------------------------------------------------------------------------------------------- the rest

function drawPage(ui, message, onInput, onBest) {
  ui.hider.textContent = `.nbadapt-play-${message.token.replace(/[^0-9a-f]/g, "")} { display: none; }`;
  ui.fields.clear();
  ui.grid.replaceChildren();
  for (const field of message.fields) {
    const made = buildField(field, [], onInput);
    made.write(message.values[field.name]);
    ui.grid.append(made.box);
    ui.fields.set(field.name, made);
  }
  if (ui.prompt !== document.activeElement) ui.prompt.value = message.prompt;
  ui.columns = message.players.map((player, place) => buildColumn(player, place, onBest));
  ui.answers.replaceChildren(...ui.columns.map((made) => made.box));
  dim(ui);
}

/** What greedy makes no use of cannot be changed while it is on. */
function dim(ui) {
  const greedy = ui.fields.get("greedy")?.read() === "true";
  for (const name of ["temperature", "top_p", "seed"]) {
    const made = ui.fields.get(name);
    if (!made) continue;
    made.box.dataset.idle = String(greedy);
    for (const element of made.elements) element.disabled = greedy;
  }
}

function said(message) {
  if (message.said) return message.said;
  if (message.working) return message.held ? `waits for the end of the run ${message.held}` : "answering …";
  return Object.keys(message.errors).length ? "Mend the marked fields." : "";
}

function drawState(ui, message) {
  for (const [name, made] of ui.fields) made.mark(message.errors[name]);
  ui.ask.disabled = message.working || Object.keys(message.errors).length > 0;
  ui.stop.disabled = !message.working;
  ui.said.textContent = said(message);
  ui.legend.textContent = message.legend;
  ui.keptText.textContent = message.kept;
  ui.undo.hidden = !message.undo;
  ui.kept.hidden = !message.kept && ui.undo.hidden;
  for (const made of ui.columns) made.best.hidden = !message.choosable || !made.writes || made.box.dataset.state !== "done";
}

function render({ model, el }) {
  const ui = build();
  el.append(ui.root);
  const view = `${Date.now()}-${Math.random()}`; // of several pages that show this playground
  const shown = { seq: 0, silent: 0, checked: 0, told: false, prompt: "", errors: {} };

  const say = (message) => {
    clearTimeout(shown.silent);
    shown.silent = setTimeout(() => {
      ui.said.textContent = "waiting for the kernel: a cell is running, or it is gone";
    }, SILENT_MS);
    model.send({ ...message, view });
  };
  const values = () => Object.fromEntries([...ui.fields].map(([name, made]) => [name, made.read()]));
  const ask = () => {
    if (ui.ask.disabled) return;
    clearTimeout(shown.checked);
    ui.ask.disabled = true; // until the kernel answers
    ui.said.textContent = "asking …";
    shown.prompt = ui.prompt.value;
    say({ type: "ask", prompt: ui.prompt.value, values: values() });
  };
  const onInput = () => {
    dim(ui);
    clearTimeout(shown.checked);
    shown.checked = setTimeout(() => say({ type: "check", values: values() }), TYPED_MS);
  };
  ui.ask.addEventListener("click", ask);
  ui.stop.addEventListener("click", () => {
    ui.stop.disabled = true;
    say({ type: "stop" });
  });
  ui.undo.addEventListener("click", () => say({ type: "undo" }));
  ui.close.addEventListener("click", () => say({ type: "close" }));
  ui.root.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      event.stopPropagation();
      ask();
    },
    true,
  );

  const onMessage = (message) => {
    if (message.seq < shown.seq) return;
    shown.seq = message.seq;
    clearTimeout(shown.silent);
    if (message.type === "page") {
      if (message.view !== view && ui.columns.length) return; // another page has come: what is typed here stays
      drawPage(ui, message, onInput, (place) => say({ type: "best", place }));
      shown.prompt = message.prompt;
    } else if (message.type === "asked") {
      const other = message.view !== view;
      if (other && ui.prompt.value === shown.prompt) ui.prompt.value = shown.prompt = message.prompt;
      const unlike = other && ui.prompt.value !== message.prompt; // what is typed here stays
      ui.asked.textContent = unlike ? `Asked in another tab: ${message.prompt.slice(0, 300)}` : "";
    } else if (message.type === "gone") removeWidget(model, message.id);
    else if (message.type === "picture") changePicture(model, `nbadapt-play-${message.token}`, message.data);
    else if (message.type === "column") drawColumn(ui, message);
    else if (message.type === "state") {
      if (message.view === view) shown.errors = message.errors; // of what is typed here
      drawState(ui, { ...message, errors: shown.errors });
    }
  };
  const recolour = () => followTheme(ui);
  ui.root.addEventListener("transitionend", recolour);
  const theme = new MutationObserver(recolour); // JupyterLab and VS Code mark the theme here
  for (const element of [document.documentElement, document.body]) theme.observe(element, { attributes: true });
  model.on("msg:custom", onMessage);
  followTheme(ui);
  say({ type: "hello" });
  return () => {
    clearTimeout(shown.silent);
    clearTimeout(shown.checked);
    theme.disconnect();
    model.off("msg:custom", onMessage);
  };
}

export default { render };
