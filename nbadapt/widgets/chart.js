// Series of thinned points, and the chart that draws them. It stands in front of a widget's own code in one module.

const MOST_BUCKETS = 20000; // of one series kept here; beyond that neighbours are merged

/** Keys on what has the focus are its own: JupyterLab asks the element itself, and none around it. */
function keepKeys(root) {
  const typed = "input[type=text], input[type=search], textarea"; // there it keeps out by itself
  root.addEventListener("focusin", ({ target }) => {
    if (!target.matches(typed)) target.dataset.lmSuppressShortcuts = "true";
  });
}

// ---------------------------------------------------------------- series

/** Columns of a series of buckets: the step of the last point, and low, mean and high of the finite values. */
class Series {
  constructor() {
    this.clear();
  }

  clear() {
    this.step = [];
    this.low = [];
    this.mean = [];
    this.high = [];
  }

  get length() {
    return this.step.length;
  }

  /** Append n buckets that start at a byte offset of a buffer; gives the offset behind them. */
  read(bytes, offset, n) {
    const column = (type) => {
      const values = new type(bytes, offset, n);
      offset += 4 * n;
      return values;
    };
    this.step.push(...column(Uint32Array));
    for (const name of ["low", "mean", "high"]) this[name].push(...column(Float32Array));
    if (this.length > MOST_BUCKETS) this.halve();
    return offset;
  }

  /** Merge every two neighbours, the means by the steps they stand for. */
  halve() {
    const old = { step: this.step, low: this.low, mean: this.mean, high: this.high };
    this.clear();
    for (let i = 0; i < old.step.length; i += 2) {
      const j = Math.min(i + 1, old.step.length - 1);
      const [a, b] = [old.step[i] - (old.step[i - 1] ?? 0), old.step[j] - old.step[i]];
      this.step.push(old.step[j]);
      if (Number.isNaN(old.mean[i]) || Number.isNaN(old.mean[j]) || a + b === 0) {
        const k = Number.isNaN(old.mean[i]) ? j : i;
        for (const name of ["low", "mean", "high"]) this[name].push(old[name][k]);
      } else {
        this.low.push(Math.min(old.low[i], old.low[j]));
        this.mean.push((old.mean[i] * a + old.mean[j] * b) / (a + b));
        this.high.push(Math.max(old.high[i], old.high[j]));
      }
    }
  }

  /** Exponential moving average over a window of steps, without the bias of an empty start; as in thin.py. */
  smooth(window) {
    const n = this.length;
    const line = new Float64Array(n);
    let [total, weight] = [0, 0];
    let before = n > 1 ? 2 * this.step[0] - this.step[1] : 0;
    for (let i = 0; i < n; i++) {
      if (Number.isNaN(this.mean[i])) {
        line[i] = NaN;
        continue;
      }
      const keep = window > 0 ? Math.exp(-Math.max(this.step[i] - before, 0) / window) : 0;
      total = keep * total + (1 - keep) * this.mean[i];
      weight = keep * weight + (1 - keep);
      line[i] = weight ? total / weight : this.mean[i];
      before = this.step[i];
    }
    return line;
  }

  /** Index of the bucket whose step is nearest. */
  nearest(step) {
    let [low, high] = [0, this.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.step[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - this.step[low - 1] < this.step[low] - step ? low - 1 : low;
  }
}

// ---------------------------------------------------------------- chart

const MARGIN = { left: 56, right: 12, top: 10, bottom: 36 };
const SMALL_MARGIN = { left: 44, right: 8, top: 6, bottom: 18 };

function format(value) {
  const size = Math.abs(value);
  if (value && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 1 ? String(Number(value.toPrecision(4))) : value.toFixed(4);
}

/** Round positions between two bounds, about `most` of them. */
function ticks(low, high, most, whole) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  let gap = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  if (whole) gap = Math.max(1, Math.round(gap));
  const found = [];
  for (let k = Math.ceil(low / gap - 1e-9); k * gap <= high + gap * 1e-9; k++) found.push(k * gap);
  const digits = Math.max(0, -Math.floor(Math.log10(gap) + 1e-9));
  const label = (v) => (gap < 1e-4 || Math.abs(v) >= 1e6 ? v.toExponential(1) : v.toFixed(digits));
  return found.map((v) => [v, label(v)]);
}

/** Bounds of what is worth seeing: all of the smoothed line and the evaluation, and 98 % of the raw points. */
function bounds(line, train, evaluation) {
  let [low, high] = [Infinity, -Infinity];
  for (const values of [line, evaluation.low, evaluation.high])
    for (const v of values) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
  for (const [values, share] of [[train.low, 0.01], [train.high, 0.99]]) {
    const sorted = Float64Array.from(values).filter((v) => !Number.isNaN(v)).sort();
    if (!sorted.length) continue;
    const v = sorted[Math.round(share * (sorted.length - 1))];
    low = Math.min(low, v);
    high = Math.max(high, v);
  }
  if (low > high) return null;
  const size = Math.max(Math.abs(low), Math.abs(high));
  const flat = high - low <= size * 1e-9; // but for rounding: ticks would be too near to count
  const room = flat ? size * 0.05 || 0.5 : (high - low) * 0.05;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

class Chart {
  /** `label` stands at the left axis; a compact chart has few ticks and no names of its axes. */
  constructor(canvas, root, { label = "loss", compact = false } = {}) {
    this.canvas = canvas;
    this.root = root;
    this.label = label;
    this.compact = compact;
    this.margin = compact ? SMALL_MARGIN : MARGIN;
    this.train = new Series();
    this.evaluation = new Series();
    this.window = 0; // of smoothing, in steps
    this.cursor = null; // step that is read out
    this.marks = []; // [step, label] of what was changed on the way
    this.frame = 0;
    this.line = new Float64Array(0);
  }

  /** Draw soon, once, however often this is called. */
  redraw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  get steps() {
    const all = [this.train, this.evaluation].filter((s) => s.length);
    if (!all.length) return null;
    const first = Math.min(...all.map((s) => s.step[0]));
    const last = Math.max(...all.map((s) => s.step[s.length - 1]));
    return [first, last > first ? last : first + 1];
  }

  x(step) {
    return this.margin.left + ((step - this.xs[0]) / (this.xs[1] - this.xs[0])) * this.plotWidth;
  }

  y(value) {
    return this.margin.top + ((this.ys[1] - value) / (this.ys[1] - this.ys[0])) * this.plotHeight;
  }

  /** The step under a horizontal position of the canvas, in CSS pixels. */
  stepAt(position) {
    return this.xs && this.xs[0] + ((position - this.margin.left) / this.plotWidth) * (this.xs[1] - this.xs[0]);
  }

  draw() {
    this.frame = 0;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (!pixels[0]) return; // not shown now
    if (this.canvas.width !== pixels[0]) this.canvas.width = pixels[0];
    if (this.canvas.height !== pixels[1]) this.canvas.height = pixels[1];
    const g = (this.g = this.canvas.getContext("2d"));
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    this.plotWidth = width - this.margin.left - this.margin.right;
    this.plotHeight = height - this.margin.top - this.margin.bottom;
    this.line = this.train.smooth(this.window);
    this.xs = this.steps;
    this.ys = this.xs && bounds(this.line, this.train, this.evaluation);
    const style = getComputedStyle(this.root);
    this.ink = style.color;
    g.font = `11px ${style.fontFamily}`;
    if (!this.ys) {
      g.fillStyle = this.ink;
      g.textAlign = "center";
      if (!this.compact) g.fillText(`The ${this.label} will appear here.`, width / 2, height / 2);
      return;
    }
    this.drawAxes();
    g.save();
    g.beginPath();
    g.rect(this.margin.left, this.margin.top - 1, this.plotWidth + 5, this.plotHeight + 2);
    g.clip();
    this.drawTraining(style.getPropertyValue("--train"));
    this.drawEvaluation(style.getPropertyValue("--evaluation"));
    this.drawMarks(style.getPropertyValue("--warn"));
    this.drawCursor();
    g.restore();
  }

  /** A dotted line at each step where something was changed, with its label; labels that are near stand below. */
  drawMarks(colour) {
    const g = this.g;
    const right = this.margin.left + this.plotWidth;
    const ends = []; // of the labels in each row
    g.textBaseline = "top";
    for (const [step, label] of this.marks) {
      if (step < this.xs[0] || step > this.xs[1]) continue;
      const x = Math.round(this.x(step)) + 0.5;
      g.strokeStyle = g.fillStyle = colour;
      g.lineWidth = 1;
      g.setLineDash([2, 3]);
      g.beginPath();
      g.moveTo(x, this.margin.top);
      g.lineTo(x, this.margin.top + this.plotHeight);
      g.stroke();
      g.setLineDash([]);
      const width = g.measureText(label).width;
      const start = x + 4 + width > right ? x - 4 - width : x + 4;
      let row = ends.findIndex((end) => end < start);
      if (row < 0) row = ends.length;
      ends[row] = start + width + 4;
      g.textAlign = "left";
      if (row < 4) g.fillText(label, start, this.margin.top + 1 + 12 * row);
    }
  }

  drawAxes() {
    const g = this.g;
    const [bottom, right] = [this.margin.top + this.plotHeight, this.margin.left + this.plotWidth];
    g.lineWidth = 1;
    g.strokeStyle = "rgba(128,128,128,.3)";
    g.fillStyle = this.ink;
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (const [value, label] of ticks(...this.ys, this.compact ? 3 : 7, false)) {
      const y = Math.round(this.y(value)) + 0.5;
      g.beginPath();
      g.moveTo(this.margin.left, y);
      g.lineTo(right, y);
      g.stroke();
      g.fillText(label, this.margin.left - 6, y);
    }
    g.beginPath();
    g.moveTo(this.margin.left, bottom + 0.5);
    g.lineTo(right, bottom + 0.5);
    g.strokeStyle = "rgba(128,128,128,.7)";
    g.stroke();
    g.textAlign = "center";
    g.textBaseline = "top";
    for (const [value, label] of ticks(...this.xs, Math.max(2, this.plotWidth / 60), true)) {
      const x = Math.round(this.x(value)) + 0.5;
      g.beginPath();
      g.moveTo(x, bottom);
      g.lineTo(x, bottom + 4);
      g.stroke();
      g.fillText(label, Math.min(x, right - 4 * label.length + this.margin.right), bottom + 6);
    }
    if (this.compact) return;
    g.fillText("step", this.margin.left + this.plotWidth / 2, bottom + 21);
    g.save();
    g.translate(2, this.margin.top + this.plotHeight / 2);
    g.rotate(-Math.PI / 2);
    g.fillText(this.label, 0, 0);
    g.restore();
  }

  /** The raw points as one faint stroke from low to high in every pixel column, and the smoothed line on it. */
  drawTraining(colour) {
    const g = this.g;
    const { step, low, high } = this.train;
    g.strokeStyle = g.fillStyle = colour;
    g.lineJoin = "round";
    const columns = []; // [x, low, high]
    for (let i = 0; i < step.length; i++) {
      if (Number.isNaN(low[i])) continue;
      const x = this.x(step[i]);
      const last = columns[columns.length - 1];
      if (last && x - last[0] < 0.75) {
        last[1] = Math.min(last[1], low[i]);
        last[2] = Math.max(last[2], high[i]);
      } else columns.push([x, low[i], high[i]]);
    }
    g.globalAlpha = 0.35;
    g.lineWidth = 1;
    g.beginPath();
    if (this.compact && columns.some(([, bottom, top]) => top !== bottom)) {
      for (const [x, , top] of columns) g.lineTo(x, this.y(top)); // a spread: a band
      for (const [x, bottom] of columns.toReversed()) g.lineTo(x, this.y(bottom));
      g.fill();
    } else {
      for (const [x, bottom, top] of columns) {
        g.lineTo(x, this.y(bottom));
        if (top !== bottom) g.lineTo(x, this.y(top));
      }
      g.stroke();
    }
    g.globalAlpha = 1;
    g.lineWidth = 2;
    g.beginPath();
    let [pen, drawn] = [false, -1];
    for (let i = 0; i < step.length; i++) {
      const x = this.x(step[i]);
      if (Number.isNaN(this.line[i])) pen = false; // a gap where the loss is no number
      else if (!pen || x - drawn >= 0.5 || i === step.length - 1) {
        if (pen) g.lineTo(x, this.y(this.line[i]));
        else g.moveTo(x, this.y(this.line[i]));
        [pen, drawn] = [true, x];
      }
    }
    g.stroke();
    if (columns.length === 1) this.dot(columns[0][0], this.y(columns[0][1]));
  }

  drawEvaluation(colour) {
    const g = this.g;
    const { step, mean } = this.evaluation;
    g.strokeStyle = g.fillStyle = colour;
    g.lineWidth = 2;
    g.setLineDash([6, 4]);
    g.beginPath();
    for (let i = 0; i < step.length; i++) if (!Number.isNaN(mean[i])) g.lineTo(this.x(step[i]), this.y(mean[i]));
    g.stroke();
    g.setLineDash([]);
    let drawn = -Infinity;
    for (let i = 0; i < step.length; i++) {
      const x = this.x(step[i]);
      if (Number.isNaN(mean[i]) || x - drawn < 8) continue;
      this.dot(x, this.y(mean[i]));
      drawn = x;
    }
  }

  dot(x, y) {
    this.g.beginPath();
    this.g.arc(x, y, 3.5, 0, 7);
    this.g.fill();
  }

  drawCursor() {
    if (this.cursor === null) return;
    const x = this.x(this.cursor);
    this.g.strokeStyle = this.ink;
    this.g.lineWidth = 1;
    this.g.globalAlpha = 0.6;
    this.g.beginPath();
    this.g.moveTo(x, this.margin.top);
    this.g.lineTo(x, this.margin.top + this.plotHeight);
    this.g.stroke();
    this.g.globalAlpha = 1;
  }

  /** What the chart shows at a step, in words; the cursor moves to the nearest point. */
  readOut(step) {
    const { train, evaluation } = this;
    const parts = [];
    if (train.length) {
      const i = train.nearest(step);
      this.cursor = train.step[i];
      parts.push(`step ${train.step[i]}`);
      const [low, high] = [train.low[i], train.high[i]];
      parts.push(`training ${low === high ? format(low) : `${format(low)} to ${format(high)}`}`);
      if (this.window && i < this.line.length) parts.push(`smoothed ${format(this.line[i])}`);
    }
    if (evaluation.length) {
      const i = evaluation.nearest(step);
      if (!train.length) this.cursor = evaluation.step[i];
      parts.push(`evaluation ${format(evaluation.mean[i])} at ${evaluation.step[i]}`);
    }
    return parts.join(" · ");
  }
}
