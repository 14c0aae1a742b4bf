// What may be asked of a run while it works: save, learning rate, stop at epoch end, a prompt. It follows chart.js and
// stands before dashboard.js. widgets/controls.py says what the messages hold.

let controlCount = 0; // ids are the page's: several dashboards may be on it

function labelledButton(className, text) {
  const element = make("button", className, text);
  element.type = "button";
  return element;
}

/** A place for what came of a wish: its answer, or what was wrong with it. */
function outcomeLine() {
  const element = make("span", "outcome");
  element.id = `nbadapt-outcome-${++controlCount}`;
  element.setAttribute("role", "status");
  return element;
}

function inputWith(tag, name, className) {
  const label = make("label", "", name);
  const input = make(tag, className);
  input.id = label.htmlFor = `nbadapt-control-${++controlCount}`;
  return [label, input];
}

/** The elements of the controls, empty; `ui.controls` holds them all. */
function buildControls(ui) {
  ui.controls = make("div", "controls");
  ui.controls.setAttribute("role", "group");
  ui.controls.setAttribute("aria-label", "Change the run while it works");
  ui.controls.hidden = true;
  ui.controls.addEventListener("keydown", (event) => {
    // Keys here are not JupyterLab's, but for those that leave the widget or save the notebook.
    if (event.key === "Enter" || !(event.ctrlKey || event.metaKey || event.key === "Escape")) event.stopPropagation();
  });
  ui.save = labelledButton("save", "Save now");
  ui.save.title = "Keep the model as it is after this step, to use and to go on from";
  ui.epochEnd = labelledButton("epoch-end", "Stop at epoch end");
  ui.epochEnd.setAttribute("aria-pressed", "false");
  [ui.rateLabel, ui.rate] = inputWith("input", "learning rate", "rate");
  Object.assign(ui.rate, { type: "text", size: 9, autocomplete: "off", spellcheck: false });
  ui.rate.title = "The rate of the next step, such as 1e-4, or a factor, such as x0.5; the rest of the schedule follows";
  ui.setRate = labelledButton("small", "Set");
  ui.setRate.setAttribute("aria-label", "Set the learning rate");
  ui.halve = labelledButton("small", "×½");
  ui.halve.setAttribute("aria-label", "Halve the learning rate");
  ui.double = labelledButton("small", "×2");
  ui.double.setAttribute("aria-label", "Double the learning rate");
  ui.outcomes = { save: outcomeLine(), epoch_end: outcomeLine(), learning_rate: outcomeLine(), sample: outcomeLine() };
  ui.rate.setAttribute("aria-describedby", ui.outcomes.learning_rate.id);
  const group = (name, ...elements) => {
    const box = make("div", "wish");
    box.dataset.wish = name;
    box.append(...elements, ui.outcomes[name]);
    return box;
  };
  ui.saveBox = group("save", ui.save);
  ui.epochBox = group("epoch_end", ui.epochEnd);
  ui.rateBox = group("learning_rate", ui.rateLabel, ui.rate, ui.setRate, ui.halve, ui.double);
  [ui.askLabel, ui.ask] = inputWith("textarea", "ask the model as it is now", "ask");
  Object.assign(ui.ask, { rows: 2, spellcheck: false });
  ui.ask.setAttribute("aria-describedby", ui.outcomes.sample.id);
  ui.sample = labelledButton("sample-now", "Sample now");
  ui.askBox = group("sample", ui.askLabel, ui.ask, ui.sample);
  ui.whyNot = make("div", "why-not");
  ui.whyNot.setAttribute("role", "status");
  ui.replies = make("div", "replies");
  ui.replies.setAttribute("aria-live", "polite");
  ui.replies.setAttribute("aria-label", "Answers to your prompts");
  ui.replies.hidden = true;
  ui.latestReply = make("div");
  ui.earlierReplies = make("details");
  ui.earlierTitle = make("summary");
  ui.replies.append(ui.latestReply, ui.earlierReplies);
  ui.changes = make("ul", "changes");
  ui.changes.setAttribute("aria-label", "Changes on the way");
  const row = make("div", "wish-row");
  row.append(ui.saveBox, ui.epochBox, ui.rateBox);
  ui.controls.append(row, ui.askBox, ui.whyNot);
}

/** Buttons and keys that wish for something. */
function wireControls(ui, send) {
  const wish = (button, message) => {
    button.disabled = true; // until the kernel answers
    send(message);
  };
  const rate = (button, text) => wish(button, { type: "rate", text });
  const setRate = () => rate(ui.setRate, ui.rate.value);
  const ask = () => wish(ui.sample, { type: "sample", text: ui.ask.value });
  ui.save.addEventListener("click", () => wish(ui.save, { type: "save" }));
  ui.epochEnd.addEventListener("click", () => {
    wish(ui.epochEnd, { type: "epoch_end", on: ui.epochEnd.getAttribute("aria-pressed") !== "true" });
  });
  ui.setRate.addEventListener("click", setRate);
  ui.halve.addEventListener("click", () => rate(ui.halve, "x0.5"));
  ui.double.addEventListener("click", () => rate(ui.double, "x2"));
  ui.sample.addEventListener("click", ask);
  for (const [input, button, act] of [[ui.rate, ui.setRate, setRate], [ui.ask, ui.sample, ask]]) {
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!button.disabled) act();
    });
  }
}

/** An answer to a prompt of the user's, with the likeliest classes where it is one. */
function answerList([step, prompt, output, shares]) {
  const list = make("dl", "sample");
  const name = shares.length ? "class" : "answer";
  list.append(make("dt", "", `step ${step}`), make("dd", "", prompt), make("dt", "", name), make("dd", "output", output));
  for (const [label, share] of shares) {
    const percent = (100 * share).toFixed(1);
    const bar = make("span", "share");
    bar.append(make("span"));
    bar.firstChild.style.width = `${percent}%`;
    const cell = make("dd", "share-row");
    cell.append(bar, make("span", "", `${percent} %`));
    list.append(make("dt", "", label), cell);
  }
  return list;
}

const WAITING = "at the end of this step …";

const showControls = {
  controls(ui, { offered, reason, rate, ending, waiting, said, errors }) {
    if (offered.length) ui.offered = offered; // what is over stays, and says why
    const known = ui.offered ?? [];
    ui.controls.hidden = !known.length;
    const asks = known.find((word) => word === "generate" || word === "predict");
    ui.saveBox.hidden = !known.includes("save");
    ui.epochBox.hidden = !known.includes("epoch_end");
    ui.rateBox.hidden = !known.includes("learning_rate");
    ui.askBox.hidden = !asks;
    ui.askLabel.textContent = asks === "predict" ? "classify with the model as it is now" : "ask the model as it is now";
    const off = Boolean(reason);
    ui.whyNot.textContent = off ? `Not now: ${reason}.` : "";
    for (const element of ui.controls.querySelectorAll("button, input, textarea")) element.disabled = off;
    for (const [name, buttons] of [
      ["save", [ui.save]],
      ["epoch_end", [ui.epochEnd]],
      ["learning_rate", [ui.setRate, ui.halve, ui.double]],
      ["sample", [ui.sample]],
    ]) {
      const waits = waiting.includes(name);
      const error = errors[name];
      const line = ui.outcomes[name];
      const text = off ? "" : waits ? WAITING : (error ?? said[name] ?? "");
      if (line.textContent !== text) line.textContent = text;
      line.dataset.kind = error && !waits && !off ? "error" : "said";
      for (const button of buttons) button.disabled ||= waits;
    }
    ui.rate.setAttribute("aria-invalid", String(Boolean(errors.learning_rate)));
    ui.ask.setAttribute("aria-invalid", String(Boolean(errors.sample)));
    if (said.learning_rate && ui.rateSaid !== said.learning_rate) ui.rate.value = ""; // it is what holds now
    ui.rateSaid = said.learning_rate;
    ui.rate.placeholder = rate;
    ui.epochEnd.setAttribute("aria-pressed", String(ending));
  },

  replies(ui, { items }) {
    ui.replies.hidden = !items.length;
    const [latest, ...earlier] = items.map(answerList);
    ui.latestReply.replaceChildren(...(latest ? [latest] : []));
    ui.earlierReplies.hidden = !earlier.length;
    ui.earlierTitle.textContent = earlier.length > 1 ? `${earlier.length} earlier answers` : "the earlier answer";
    ui.earlierReplies.replaceChildren(ui.earlierTitle, ...earlier);
  },

  changes(ui, { lines }) {
    ui.changes.replaceChildren(...lines.map((text) => make("li", "", text)));
  },
};
