// What a widget does to the notebook that shows it. It stands in front of a widget's own code in one module.

const WIDGET = "application/vnd.jupyter.widget-view+json";

/** The notebook, where the host's widget manager gives it: JupyterLab 4 and Notebook 7 do. */
function notebookOf(model) {
  const notebook = model.widget_manager?.context?.model?.sharedModel;
  return typeof notebook?.insertCell === "function" ? notebook : null;
}

/** Whether an output shows the widget with this id. */
const showing = (id) => (output) => output.data?.[WIDGET]?.model_id === id;

/** Put a new cell below the one that shows a widget. */
function insertCell(notebook, id, source) {
  const at = notebook.cells.findIndex((cell) => cell.toJSON().outputs?.some(showing(id)));
  notebook.insertCell(at < 0 ? notebook.cells.length : at + 1, { cell_type: "code", source, metadata: {} });
}

/**
 * Put what `change` gives in the place of each output, or nothing for null: a page that was reloaded, and another tab,
 * do not hear that a display was changed.
 */
function changeOutputs(model, change) {
  for (const cell of notebookOf(model)?.cells ?? []) {
    const before = cell.toJSON().outputs ?? [];
    const after = before.map(change).filter(Boolean);
    const first = before.findIndex((output, place) => output !== after[place]);
    // All that follow too: JupyterLab shows what is inserted as the last.
    if (first >= 0) cell.updateOutputs?.(first, before.length, after.slice(first));
  }
}

/** Take a widget that is gone out of the notebook. */
function removeWidget(model, id) {
  changeOutputs(model, (output) => (showing(id)(output) ? null : output));
}

/** Change the static picture that holds a mark. */
function changePicture(model, mark, data) {
  const html = (output) => [output.data?.["text/html"] ?? ""].flat().join("");
  const stale = (output) => html(output).includes(mark) && html(output) !== data["text/html"];
  changeOutputs(model, (output) => (stale(output) ? { ...output, data } : output));
}
