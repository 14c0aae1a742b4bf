// Curves of several runs over each other, and quality against cost. It follows chart.js and stands before runs.js.
// Runs go by their numbers here: the legend and the table name them.

const INKS = 6; // --run-0 to --run-5 of the style sheet; from the seventh run on they come again
const WINDOW = 0.04; // of a run's steps: how far the smoothing of training reaches back
const BAND_RUNS = 3; // with more runs than this the raw points would hide the lines
const WIDE = 30; // from this ratio of costs on the axis is logarithmic

/** A canvas with axes; subclasses give `xs`, `ys`, labels and what is drawn. */
class Plot {
  constructor(canvas, root) {
    this.canvas = canvas;
    this.root = root;
    this.frame = 0;
    this.empty = "";
    this.log = false;
  }

  redraw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  ink(place) {
    return this.style.getPropertyValue(`--run-${place % INKS}`);
  }

  x(value) {
    const [low, high] = this.xs;
    const at = this.log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return MARGIN.left + at * this.plotWidth;
  }

  y(value) {
    return MARGIN.top + ((this.ys[1] - value) / (this.ys[1] - this.ys[0])) * this.plotHeight;
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
    this.plotWidth = width - MARGIN.left - MARGIN.right;
    this.plotHeight = height - MARGIN.top - MARGIN.bottom;
    this.style = getComputedStyle(this.root);
    g.font = `11px ${this.style.fontFamily}`;
    g.fillStyle = this.style.color;
    if (!this.measure()) {
      g.textAlign = "center";
      g.fillText(this.empty, width / 2, height / 2);
      return;
    }
    this.drawAxes();
    this.drawContent();
  }

  drawAxes() {
    const g = this.g;
    const [bottom, right] = [MARGIN.top + this.plotHeight, MARGIN.left + this.plotWidth];
    g.lineWidth = 1;
    g.strokeStyle = "rgba(128,128,128,.3)";
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (const [value, label] of ticks(...this.ys, 6, false)) {
      const y = Math.round(this.y(value)) + 0.5;
      g.beginPath();
      g.moveTo(MARGIN.left, y);
      g.lineTo(right, y);
      g.stroke();
      g.fillText(label, MARGIN.left - 6, y);
    }
    g.beginPath();
    g.moveTo(MARGIN.left, bottom + 0.5);
    g.lineTo(right, bottom + 0.5);
    g.strokeStyle = "rgba(128,128,128,.7)";
    g.stroke();
    g.textAlign = "center";
    g.textBaseline = "top";
    for (const [value, label] of this.xTicks()) {
      const x = Math.round(this.x(value)) + 0.5;
      g.beginPath();
      g.moveTo(x, bottom);
      g.lineTo(x, bottom + 4);
      g.stroke();
      g.fillText(label, Math.min(x, right - 3 * label.length + MARGIN.right), bottom + 6);
    }
    g.fillText(this.xLabel, MARGIN.left + this.plotWidth / 2, bottom + 21);
    g.save();
    g.translate(2, MARGIN.top + this.plotHeight / 2);
    g.rotate(-Math.PI / 2);
    g.fillText(this.yLabel, 0, 0);
    g.restore();
  }

  xTicks() {
    const most = Math.max(2, this.plotWidth / 90);
    if (!this.log) return ticks(...this.xs, most, this.whole).map(([v, label]) => [v, this.short(v, label)]);
    const found = [];
    for (let power = Math.ceil(Math.log10(this.xs[0])); 10 ** power <= this.xs[1]; power++)
      found.push([10 ** power, this.short(10 ** power, String(10 ** power))]);
    return found;
  }

  short(value, label) {
    if (value >= 1e9) return `${Number((value / 1e9).toPrecision(3))} B`;
    if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
    return value >= 1e4 ? `${Number((value / 1e3).toPrecision(3))} k` : label;
  }

  /** A number beside a point, in the run's colour. */
  number(place, x, y) {
    const g = this.g;
    g.save();
    g.fillStyle = this.ink(place);
    g.font = `bold 12px ${this.style.fontFamily}`;
    g.textAlign = "left";
    g.textBaseline = "bottom";
    g.fillText(String(place + 1), Math.min(x + 4, this.canvas.clientWidth - 14), Math.max(12, y - 2));
    g.restore();
  }

  dot(x, y, size) {
    this.g.beginPath();
    this.g.arc(x, y, size, 0, 7);
    this.g.fill();
  }
}

/** Bounds with some room around them; null without any finite value. */
function span(values, share) {
  let [low, high] = [Infinity, -Infinity];
  for (const v of values) {
    if (!Number.isFinite(v)) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (low > high) return null;
  const room = (high - low) * share || Math.abs(high) * share || 0.5;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

/** Curves by step; `runs` are ids in the order of their numbers. */
class Overlay extends Plot {
  constructor(canvas, root) {
    super(canvas, root);
    this.series = new Map(); // "id split" -> Series
    this.runs = [];
    this.cursor = null;
    this.whole = true;
    this.xLabel = "step";
    this.yLabel = "loss";
  }

  get(id, split) {
    const series = this.series.get(`${id} ${split}`);
    return series?.length ? series : null;
  }

  /** Take in the curves of a message: each of them is whole. */
  read(counts, bytes) {
    let offset = 0;
    for (const [id, split, n] of counts) {
      const series = new Series();
      if (n) offset = series.read(bytes, offset, n);
      series.line = split === "train" ? series.smooth(WINDOW * (series.step[n - 1] ?? 0)) : series.mean;
      this.series.set(`${id} ${split}`, series);
    }
  }

  keep(ids) {
    this.runs = ids;
    for (const key of this.series.keys()) if (!ids.includes(key.split(" ")[0])) this.series.delete(key);
  }

  measure() {
    const shown = this.runs.flatMap((id) => ["train", "evaluation"].map((split) => this.get(id, split))).filter(Boolean);
    if (!shown.length) return false;
    const first = Math.min(...shown.map((s) => s.step[0]));
    const last = Math.max(...shown.map((s) => s.step[s.length - 1]));
    this.xs = [first, last > first ? last : first + 1];
    this.ys = span(shown.flatMap((s) => Array.from(s.line)), 0.06);
    return this.ys !== null;
  }

  drawContent() {
    const g = this.g;
    g.save();
    g.beginPath();
    g.rect(MARGIN.left, MARGIN.top - 1, this.plotWidth + 5, this.plotHeight + 2);
    g.clip();
    this.runs.forEach((id, place) => {
      const train = this.get(id, "train");
      const evaluation = this.get(id, "evaluation");
      g.strokeStyle = g.fillStyle = this.ink(place);
      if (train && this.runs.length <= BAND_RUNS) this.drawBand(train);
      if (train) this.drawLine(train, []);
      if (evaluation) this.drawLine(evaluation, [5, 4]);
      if (evaluation) this.drawDots(evaluation);
    });
    if (this.cursor !== null) this.drawCursor();
    g.restore();
    const marks = [];
    this.runs.forEach((id, place) => {
      const end = this.get(id, "evaluation") ?? this.get(id, "train");
      const value = end?.line[end.length - 1];
      if (Number.isFinite(value)) marks.push([this.y(value), this.x(end.step[end.length - 1]), place]);
    });
    let above = -Infinity;
    for (const [y, x, place] of marks.sort((a, b) => a[0] - b[0])) {
      above = Math.max(y, above + 12); // no number covers another
      this.number(place, x, above);
    }
  }

  drawBand({ step, low, high }) {
    const g = this.g;
    g.globalAlpha = 0.25;
    g.lineWidth = 1;
    g.beginPath();
    for (let i = 0; i < step.length; i++) {
      if (Number.isNaN(low[i])) continue;
      g.lineTo(this.x(step[i]), this.y(low[i]));
      if (high[i] !== low[i]) g.lineTo(this.x(step[i]), this.y(high[i]));
    }
    g.stroke();
    g.globalAlpha = 1;
  }

  drawLine({ step, line }, dash) {
    const g = this.g;
    g.setLineDash(dash);
    g.lineWidth = 2;
    g.beginPath();
    let pen = false;
    for (let i = 0; i < step.length; i++) {
      if (Number.isNaN(line[i])) pen = false; // a gap where it is no number
      else if (pen) g.lineTo(this.x(step[i]), this.y(line[i]));
      else g.moveTo(this.x(step[i]), this.y(line[i]));
      pen = !Number.isNaN(line[i]);
    }
    g.stroke();
    g.setLineDash([]);
  }

  drawDots({ step, line }) {
    let drawn = -Infinity;
    for (let i = 0; i < step.length; i++) {
      const x = this.x(step[i]);
      if (Number.isNaN(line[i]) || x - drawn < 10) continue;
      this.dot(x, this.y(line[i]), 3);
      drawn = x;
    }
  }

  drawCursor() {
    const x = this.x(this.cursor);
    this.g.strokeStyle = this.style.color;
    this.g.lineWidth = 1;
    this.g.beginPath();
    this.g.moveTo(x, MARGIN.top);
    this.g.lineTo(x, MARGIN.top + this.plotHeight);
    this.g.stroke();
  }

  stepAt(position) {
    return this.xs && this.xs[0] + ((position - MARGIN.left) / this.plotWidth) * (this.xs[1] - this.xs[0]);
  }

  /** The curves at a step, in words; the cursor moves there. */
  readOut(step) {
    this.cursor = Math.round(Math.max(this.xs[0], Math.min(this.xs[1], step)));
    const parts = [`step ${this.cursor}`];
    this.runs.forEach((id, place) => {
      const words = [];
      for (const [split, name] of [["train", "training"], ["evaluation", "evaluation"]]) {
        const series = this.get(id, split);
        if (!series || this.cursor > series.step[series.length - 1]) continue;
        words.push(`${name} ${format(series.line[series.nearest(this.cursor)])}`);
      }
      if (words.length) parts.push(`${place + 1}: ${words.join(", ")}`);
    });
    return parts.join(" · ");
  }
}

/** Points of [place among the ticked runs or -1, cost, quality]. */
class Scatter extends Plot {
  constructor(canvas, root) {
    super(canvas, root);
    this.points = [];
    this.xLabel = this.yLabel = "";
    this.whole = false;
  }

  measure() {
    if (!this.points.length) return false;
    const costs = this.points.map(([, x]) => x);
    const [low, high] = [Math.min(...costs), Math.max(...costs)];
    this.log = low > 0 && high / low > WIDE;
    this.xs = this.log ? [low / 1.6, high * 1.6] : span(costs, 0.1);
    this.ys = span(this.points.map(([, , y]) => y), 0.1);
    return this.ys !== null;
  }

  drawContent() {
    const g = this.g;
    for (const [place, cost, quality] of this.points) {
      const [x, y] = [this.x(cost), this.y(quality)];
      if (place < 0) {
        g.strokeStyle = "rgba(128,128,128,.9)";
        g.lineWidth = 1.3;
        g.beginPath();
        g.arc(x, y, 3.5, 0, 7);
        g.stroke();
      } else {
        g.fillStyle = this.ink(place);
        this.dot(x, y, 5);
      }
    }
    for (const [place, cost, quality] of this.points)
      if (place >= 0) this.number(place, this.x(cost) + 2, this.y(quality));
  }
}
