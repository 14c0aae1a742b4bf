// Fields of a form, and what its parts share. It stands in front of a widget's own code in one module.
// Data reaches the page through textContent and values of inputs only, never as HTML.

const TYPED_MS = 250; // of rest after a key, before the kernel is told
const SLID_MS = 30;
const SILENT_MS = 4000; // without any message by then, say so
const OTHER = "\u0000other"; // no name holds this character

let count = 0;

/** An id that no other element of the page has, whatever widgets are on it: each has this module for itself. */
function freshId() {
  return `nbadapt-${Math.random().toString(36).slice(2)}-${++count}`;
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className.split(" ").map((name) => `nbadapt-${name}`).join(" ");
  if (text !== undefined) element.textContent = text;
  return element;
}

function option(value, text) {
  const element = make("option", "", text ?? value);
  element.value = value;
  return element;
}

function button(className, text) {
  const element = make("button", className, text);
  element.type = "button";
  return element;
}

/** Each maker gives {elements, read, write}: write(value) shows a raw value, read() is the one that is there. */
const makers = {
  switch() {
    const box = make("input");
    box.type = "checkbox";
    return { main: box, elements: [box], read: () => String(box.checked), write: (v) => (box.checked = v === "true") };
  },
  choice(field) {
    const menu = make("select");
    if (field.optional) menu.append(option("", "none"));
    menu.append(...field.choices.map((word) => option(word)));
    return { main: menu, elements: [menu], read: () => menu.value, write: (v) => (menu.value = v) };
  },
  slider(field) {
    const text = typed(field);
    const range = make("input");
    const stops = field.stops.map(Number);
    Object.assign(range, { type: "range", min: 0, max: stops.length - 1, step: 1 });
    const follow = (value) => {
      const number = value === "" ? NaN : Number(value);
      const at = Number.isNaN(number) ? 0 : nearest(stops, number);
      range.value = at;
      range.setAttribute("aria-valuetext", value === "" ? "none" : value);
    };
    range.addEventListener("input", () => {
      text.value = field.stops[range.value];
      range.setAttribute("aria-valuetext", text.value);
    });
    text.addEventListener("input", () => follow(text.value));
    const write = (v) => {
      text.value = v;
      follow(v);
    };
    range.setAttribute("aria-label", `${field.label}, slider`);
    return { main: text, elements: [range, text], slid: true, read: () => text.value, write };
  },
  text(field) {
    const text = typed(field);
    return { main: text, elements: [text], read: () => text.value, write: (v) => (text.value = v) };
  },
  area() {
    const area = make("textarea");
    area.rows = 4;
    return { main: area, elements: [area], read: () => area.value, write: (v) => (area.value = v) };
  },
  /** A menu of what is there, whose last entry lets something else be typed. */
  menu(field, offers) {
    const menu = make("select");
    const text = typed(field);
    text.setAttribute("aria-label", `${field.label}, typed`);
    text.hidden = true;
    const offer = (words, value = read()) => {
      const known = words.filter((word) => !word.endsWith("/") && !word.endsWith(":"));
      menu.replaceChildren();
      if (field.optional) menu.append(option("", "–"));
      menu.append(...known.map((word) => option(word)), option(OTHER, "other …"));
      const listed = known.includes(value) || (value === "" && field.optional);
      menu.value = listed ? value : OTHER;
      text.hidden = listed;
    };
    const read = () => (menu.value === OTHER ? text.value : menu.value);
    const write = (value) => {
      text.value = value;
      const listed = [...menu.options].some((entry) => entry.value === value && value !== OTHER);
      menu.value = listed ? value : OTHER;
      text.hidden = listed;
    };
    menu.addEventListener("input", () => {
      text.hidden = menu.value !== OTHER;
      if (!text.hidden) {
        text.value = "";
        text.focus();
      }
    });
    offer(offers, "");
    return { main: menu, elements: [menu, text], menu: true, read, write, offer };
  },
};

function typed(field) {
  const text = make("input");
  text.type = "text";
  text.autocomplete = "off";
  text.spellcheck = false;
  if (["integer", "number"].includes(field.kind)) text.inputMode = field.kind === "integer" ? "numeric" : "decimal";
  if (field.optional) text.placeholder = field.option ? "" : "none";
  return text;
}

function nearest(stops, value) {
  let best = 0;
  stops.forEach((stop, i) => {
    if (Math.abs(stop - value) < Math.abs(stops[best] - value)) best = i;
  });
  return best;
}

function kindOf(field) {
  if (["switch", "choice", "area"].includes(field.kind)) return field.kind;
  if (field.kind === "menu" || field.choices.length) return "menu";
  return field.stops.length ? "slider" : "text";
}

/** One field with its label, its help and room for what is wrong with it. */
function buildField(field, offers, onInput) {
  const box = make("div", "field");
  box.dataset.name = field.name;
  const kind = kindOf(field);
  box.dataset.kind = kind;
  const made = makers[kind](field, offers ?? field.choices);
  const id = freshId();
  const label = make("label", "", field.label);
  label.htmlFor = made.main.id = id;
  const help = make("div", "help", field.allowed ? `${field.help} (${field.allowed})` : field.help);
  help.id = `${id}-help`;
  help.setAttribute("role", "tooltip");
  const error = make("div", "error");
  error.id = `${id}-error`;
  const control = make("div", "control");
  control.classList.toggle("nbadapt-slid", Boolean(made.slid));
  control.classList.toggle("nbadapt-menu", Boolean(made.menu));
  control.append(...made.elements);
  for (const element of made.elements) {
    element.setAttribute("aria-describedby", `${error.id} ${help.id}`);
    if (element.type !== "text") element.dataset.lmSuppressShortcuts = "true"; // arrows: asked of the element alone
    element.addEventListener("input", () => onInput(field.name, element.type.startsWith("text")));
  }
  box.append(label, control, error, help);
  const mark = (message) => {
    error.textContent = message ?? "";
    for (const element of made.elements) element.setAttribute("aria-invalid", String(Boolean(message)));
  };
  return { ...made, field, box, mark };
}

/** Light or dark, by the colour that the page gives to text. */
function followTheme(ui) {
  const parts = getComputedStyle(ui.root).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
  ui.root.dataset.theme = 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] > 140 ? "dark" : "light";
}

/** Keep keys inside from JupyterLab, but for those that leave the form or save the notebook. */
function keepKeys(root) {
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || !(event.ctrlKey || event.metaKey || event.key === "Escape")) event.stopPropagation();
  });
}
