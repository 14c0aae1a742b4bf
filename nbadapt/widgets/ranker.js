// One comparison at a time; ranker.py says what the messages hold. Texts reach the page through textContent only.

const SILENT_MS = 4000; // without an answer of the kernel by then, say so
const STACKED_PX = 620; // below this width answers stand below each other

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = `nbadapt-rank-${className}`;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(className, text) {
  const element = make("button", className, text);
  element.type = "button";
  return element;
}

/** The elements of the widget, empty. */
function build() {
  const ui = { root: make("section") };
  ui.root.className = "nbadapt-rank";
  ui.root.setAttribute("aria-label", "Rank answers");
  ui.root.tabIndex = 0; // takes the keys
  ui.head = make("div", "head");
  ui.title = make("span", "title", "Which answer is better?");
  ui.count = make("span", "count");
  ui.status = make("span", "status", "connecting");
  ui.status.setAttribute("role", "status");
  ui.head.append(ui.title, ui.count, ui.status);
  ui.bar = make("div", "bar");
  ui.bar.setAttribute("role", "progressbar");
  ui.bar.setAttribute("aria-label", "Comparisons judged");
  ui.bar.setAttribute("aria-valuemin", "0");
  ui.fill = make("div");
  ui.bar.append(ui.fill);
  ui.prompt = make("div", "prompt");
  ui.prompt.tabIndex = 0; // long ones scroll
  ui.prompt.setAttribute("role", "group");
  ui.prompt.setAttribute("aria-label", "Prompt");
  ui.prompt.setAttribute("aria-live", "polite"); // a new prompt is a new comparison
  ui.answers = make("div", "answers");
  ui.actions = make("div", "actions");
  ui.tie = button("tie", "Tie");
  ui.skip = button("skip", "Skip");
  ui.undo = button("undo", "Undo");
  ui.close = button("close", "Close");
  for (const [element, key] of [[ui.tie, "T"], [ui.skip, "S"], [ui.undo, "U"]]) {
    element.append(" ", make("kbd", "", key));
    element.setAttribute("aria-keyshortcuts", key);
  }
  ui.actions.append(ui.tie, ui.skip, ui.undo, ui.close);
  ui.notes = make("ul", "notes");
  ui.notes.setAttribute("aria-label", "Notes");
  ui.root.append(ui.head, ui.bar, ui.prompt, ui.answers, ui.actions, ui.notes);
  return ui;
}

/** The words and keys of the answer at a place. */
function words(place, count, stacked) {
  const number = String(place + 1);
  if (count > 2) return { name: `Answer ${number}`, act: `${number} is best`, keys: [number] };
  const side = (stacked ? ["Upper", "Lower"] : ["Left", "Right"])[place];
  return { name: side, act: `${side} is better`, keys: [place ? "→" : "←", number] };
}

function showAnswers(ui, card, stacked, choose) {
  ui.answers.replaceChildren(
    ...card.answers.map((text, place) => {
      const { name, act, keys } = words(place, card.answers.length, stacked);
      const box = make("article", "answer");
      box.setAttribute("aria-label", name);
      const body = make("div", "text", text);
      body.tabIndex = 0; // long texts scroll, with keys too
      body.setAttribute("role", "group");
      body.setAttribute("aria-label", `${name} answer`);
      const pick = button("pick", act);
      pick.append(...keys.flatMap((key) => [" ", make("kbd", "", key)]));
      pick.setAttribute("aria-keyshortcuts", place && card.answers.length === 2 ? "ArrowRight 2" : `${place + 1}`);
      pick.addEventListener("click", () => choose(place));
      box.append(make("div", "name", name), body, pick);
      return box;
    }),
  );
}

const STATUS = {
  asking: (s) => (s.saved === 1 ? `1 preference in ${s.file}` : `${s.saved} preferences in ${s.file}`),
  waiting: () => "the model is writing the next answers …",
  done: (s) => `${s.saved} preferences in ${s.file}`,
  failed: () => "no more answers come",
  closed: (s) => `closed; ${s.saved} preferences in ${s.file}`,
};

function title(s) {
  if (s.state === "done") return "All answers are ranked";
  if (s.state === "closed" || s.state === "failed") return "Ranking";
  return s.card && s.card.answers.length > 2 ? "Which answer is best?" : "Which answer is better?";
}

/** Draw the state; what does not change stays, so that focus and scrolling do. */
function draw(ui, shown, choose) {
  ui.root.dataset.stacked = String(shown.stacked);
  const s = shown.state;
  const open = s.state === "asking";
  ui.title.textContent = title(s);
  ui.count.textContent = `${s.done} of ${s.total} · ${s.rater}`;
  ui.status.textContent = STATUS[s.state](s);
  ui.fill.style.width = `${s.total ? Math.min(100, (100 * s.done) / s.total) : 0}%`;
  ui.bar.setAttribute("aria-valuemax", s.total);
  ui.bar.setAttribute("aria-valuenow", s.done);
  ui.bar.setAttribute("aria-valuetext", `${s.done} of ${s.total} comparisons judged`);
  const key = open ? `${s.card.key} ${shown.stacked}` : "";
  if (key !== shown.drawn) {
    shown.drawn = key;
    ui.prompt.textContent = open ? s.card.prompt : "";
    if (open) showAnswers(ui, s.card, shown.stacked, choose);
    else ui.answers.replaceChildren();
  }
  ui.prompt.hidden = ui.answers.hidden = ui.tie.hidden = ui.skip.hidden = !open;
  ui.undo.disabled = !s.undo || s.state === "closed";
  ui.actions.hidden = s.state === "closed";
  const notes = [...(s.problem ? [["bad", s.problem]] : []), ...s.notes.map((note) => ["", note])];
  ui.notes.replaceChildren(
    ...notes.map(([level, text]) => {
      const item = make("li", "", text);
      item.dataset.level = level;
      return item;
    }),
  );
}

/** Light or dark, by the colour that the page gives to text. */
function followTheme(root) {
  const parts = getComputedStyle(root).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  root.dataset.theme = 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 140 ? "dark" : "light";
}

/** What a key means for a card of `count` answers; null where it is not ours. */
function meaning(key, count) {
  const letter = { t: "tie", s: "skip", u: "undo" }[key.toLowerCase()];
  if (letter) return letter;
  if (count === 2 && key === "ArrowLeft") return 0;
  if (count === 2 && key === "ArrowRight") return 1;
  const place = /^[1-9]$/.test(key) ? Number(key) - 1 : -1;
  return place >= 0 && place < count ? place : null;
}

function render({ model, el }) {
  const ui = build();
  el.append(ui.root);
  const shown = { state: null, drawn: null, stacked: false, sequence: 0, silent: 0 };

  const say = (message) => {
    ui.root.dataset.busy = "true";
    clearTimeout(shown.silent);
    shown.silent = setTimeout(() => {
      ui.status.textContent = "waiting for the kernel: a cell is running, or it is gone";
    }, SILENT_MS);
    model.send(message);
  };
  const busy = () => ui.root.dataset.busy === "true";
  const choose = (choice) => {
    if (busy() || shown.state?.state !== "asking") return;
    if (ui.root.contains(document.activeElement)) ui.root.focus({ preventScroll: true }); // the button goes
    say({ type: "vote", card: shown.state.card.key, choice });
  };
  const undo = () => {
    if (!busy() && shown.state?.undo) say({ type: "undo" });
  };
  ui.tie.addEventListener("click", () => choose("tie"));
  ui.skip.addEventListener("click", () => choose("skip"));
  ui.undo.addEventListener("click", undo);
  ui.close.addEventListener("click", () => say({ type: "close" }));
  ui.root.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const meant = meaning(event.key, shown.state?.card?.answers.length ?? 0);
    if (meant === null) return;
    event.preventDefault();
    event.stopPropagation();
    if (meant === "undo") undo();
    else choose(meant);
  });

  // Keys here are not JupyterLab's, which looks for this mark; its shortcuts with Ctrl, such as to save, stay.
  const mark = (event) => {
    if (event.ctrlKey || event.metaKey) delete ui.root.dataset.lmSuppressShortcuts;
    else ui.root.dataset.lmSuppressShortcuts = "true";
  };
  window.addEventListener("keydown", mark, true);
  const onMessage = (state) => {
    if (state.seq < shown.sequence) return;
    shown.sequence = state.seq;
    shown.state = state;
    clearTimeout(shown.silent);
    ui.root.dataset.busy = "false";
    draw(ui, shown, choose);
  };
  const size = new ResizeObserver(() => {
    const stacked = ui.root.clientWidth < STACKED_PX;
    if (stacked === shown.stacked) return;
    shown.stacked = stacked;
    if (shown.state) draw(ui, shown, choose);
  });
  size.observe(ui.root);
  const recolour = () => followTheme(ui.root);
  ui.root.addEventListener("transitionend", recolour);
  const theme = new MutationObserver(recolour); // JupyterLab and VS Code mark the theme here
  for (const element of [document.documentElement, document.body]) theme.observe(element, { attributes: true });
  model.on("msg:custom", onMessage);
  followTheme(ui.root);
  say({ type: "hello" });
  return () => {
    clearTimeout(shown.silent);
    size.disconnect();
    theme.disconnect();
    window.removeEventListener("keydown", mark, true);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
