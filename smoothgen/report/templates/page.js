"use strict";
// Draws the curves, the points and what sliders move. All texts are set as text, never as HTML.
const page = JSON.parse(document.getElementById("page-data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const redraws = [];

function element(name, attributes, parent, text) {
  const node = document.createElement(name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function drawn(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  const text = size >= 1e6 || size < 1e-3 ? value.toExponential(1).replace("e+", "e") : String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−");
}

// ---------------------------------------------------------------- scales

function linearTicks(low, high, count) {
  const raw = (high - low) / count;
  const power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) ticks.push(k * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) ticks.push(factor * Math.pow(10, power));
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const decades = inside.filter((tick) => Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-9);
  if (decades.length >= 3) return decades;
  return inside.length > 6 ? inside.filter((_, i) => i % 2 === 0) : inside;
}

function scale(values, log, from, to, count) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { const pad = Math.abs(low) * 0.05 || 1; low -= log ? low / 2 : pad; high += pad; }
  const unit = log ? Math.log : (value) => value;
  const pad = 0.04 * (unit(high) - unit(low)) * (from > to ? 1 : 0);
  const bottom = unit(low) - pad, top = unit(high) + pad;
  const place = (value) => from + (to - from) * (unit(value) - bottom) / (top - bottom);
  const back = log ? Math.exp : (value) => value;
  const ticks = log ? logTicks(back(bottom), back(top)) : linearTicks(bottom, top, count);
  return { place, ticks };
}

// ---------------------------------------------------------------- curves

function chartOf(path) {
  return path.split("/").reduce((node, key) => (Array.isArray(node) || key in node ? node[key] : node.charts[key]), page.charts);
}

function startChart(holder) {
  const chart = chartOf(holder.dataset.chart.replace(/^(stages\/\d+)\//, "$1/charts/"));
  const several = page.runs.length > 1;
  const byRun = several && chart.x === "step";
  const state = { logX: chart.x === "sigma", logY: false, late: false, off: new Set(), at: null };
  const values = chart.series.flatMap((one) => one.points.map((point) => point[1])).filter((value) => value !== null);
  const steps = chart.series.flatMap((one) => one.points.map((point) => point[0]));
  const title = chart.title + (several && chart.x === "sigma" ? " · " + page.runs[chart.series[0].run] : "");
  const head = element("div", { class: "chart-head" }, holder);
  element("b", {}, head, title + (chart.unit ? ", " + chart.unit : ""));
  const curved = chart.series.some((one) => one.points.length > 2);  // a level line has nothing to rescale
  toggle(head, "log y", "logY", curved && Math.min(...values) > 0);
  toggle(head, "log x", "logX", curved && Math.min(...steps) > 0);
  toggle(head, "skip start", "late", curved && chart.x === "step");
  const svg = drawn("svg", { tabindex: "0", role: "img", "aria-label": described() }, holder);
  const legend = element("div", { class: "legend" }, holder);
  const readout = element("div", { class: "readout", "aria-live": "polite" }, holder);
  readout.hidden = true;
  const named = (one) => (byRun ? page.runs[one.run] + (one.name === chart.title.toLowerCase() || one.name === chart.title ? "" : " · " + one.name) : one.name);
  const own = (one, index) => "--s" + (byRun ? one.run : index) % 8;
  chart.series.forEach((one, index) => {
    const button = element("button", { type: "button", "aria-pressed": "true", style: "--own: var(" + own(one, index) + ")" }, legend);
    element("i", one.dashed ? { class: "dashed" } : {}, button);
    button.append(named(one));
    button.addEventListener("click", () => {
      state.off.has(index) ? state.off.delete(index) : state.off.add(index);
      button.setAttribute("aria-pressed", String(!state.off.has(index)));
      draw();
    });
  });

  function toggle(parent, text, key, possible) {
    if (!possible) return;
    const button = element("button", { type: "button", "aria-pressed": String(state[key]) }, parent, text);
    button.addEventListener("click", () => {
      state[key] = !state[key];
      button.setAttribute("aria-pressed", String(state[key]));
      draw();
    });
  }

  function described() {
    const parts = chart.series.map((one) => {
      const known = one.points.filter((point) => point[1] !== null);
      if (!known.length) return one.name + ": no finite values";
      const first = known[0], last = known[known.length - 1];
      return (several ? page.runs[one.run] + ", " : "") + one.name + ": " + short(first[1]) + " at " + chart.x + " " + short(first[0]) +
        ", " + short(last[1]) + " at " + short(last[0]);
    });
    return "Line chart of " + title + ". " + parts.join("; ") + ".";
  }

  function visible() {
    const shown = chart.series.map((one, index) => ({ ...one, index })).filter((one) => !state.off.has(one.index));
    if (!state.late) return shown;
    const end = Math.max(...steps), begin = Math.min(...steps), from = begin + 0.2 * (end - begin);
    return shown.map((one) => ({ ...one, points: one.points.filter((point) => point[0] >= from) }));
  }

  let layout = null;
  function draw() {
    svg.replaceChildren();
    const width = svg.clientWidth, height = 220;
    if (!width) return;
    svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    const shown = visible();
    const known = shown.flatMap((one) => one.points.filter((point) => point[1] !== null));
    layout = null;
    if (!known.length) { drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg, "nothing to show"); return; }
    const y = scale(known.map((point) => point[1]), state.logY, height - 34, 10, 5);
    const left = 14 + 6.4 * Math.max(...y.ticks.map((tick) => short(tick).length), 2);
    const x = scale(known.map((point) => point[0]), state.logX, left, width - 20, Math.max(2, Math.floor(width / 90)));
    for (const tick of y.ticks) {
      drawn("line", { class: "grid", x1: left, x2: width - 20, y1: y.place(tick), y2: y.place(tick) }, svg);
      drawn("text", { x: left - 6, y: y.place(tick) + 4, "text-anchor": "end" }, svg, short(tick));
    }
    for (const tick of x.ticks) drawn("text", { x: x.place(tick), y: height - 18, "text-anchor": "middle" }, svg, short(tick));
    drawn("text", { x: width - 20, y: height - 4, "text-anchor": "end" }, svg, chart.x);
    for (const one of shown) {
      let path = "", broken = true;
      for (const point of one.points) {
        if (point[1] === null) { broken = true; continue; }
        path += (broken ? "M" : "L") + x.place(point[0]).toFixed(1) + "," + y.place(point[1]).toFixed(1);
        broken = false;
      }
      const stroke = "stroke: var(" + own(one, one.index) + ")" + (one.dashed ? "; stroke-dasharray: 5 4" : "");
      drawn("path", { d: path, style: stroke }, svg);
      if (one.marks || one.points.length === 1) {
        for (const point of one.points) {
          if (point[1] !== null) drawn("circle", { cx: x.place(point[0]), cy: y.place(point[1]), r: 3.5, style: "fill: var(" + own(one, one.index) + ")" }, svg);
        }
      }
    }
    layout = { x, y, shown, width, places: [...new Set(known.map((point) => point[0]))].sort((a, b) => a - b) };
    if (state.at !== null) point(state.at);
  }

  function point(at) {
    if (!layout) return;
    state.at = at;
    svg.querySelectorAll(".cross").forEach((node) => node.remove());
    const px = layout.x.place(at);
    drawn("line", { class: "cross", x1: px, x2: px, y1: 10, y2: 186, style: "stroke: var(--soft)" }, svg);
    readout.replaceChildren(element("div", {}, null, chart.x + " " + short(at)));
    for (const one of layout.shown) {
      let best = null;
      for (const p of one.points) if (p[1] !== null && (!best || Math.abs(p[0] - at) < Math.abs(best[0] - at))) best = p;
      if (!best) continue;
      drawn("circle", { class: "cross", cx: layout.x.place(best[0]), cy: layout.y.place(best[1]), r: 3.5, style: "fill: var(" + own(one, one.index) + ")" }, svg);
      element("div", {}, readout, named(one) + ": " + short(best[1]) + (best[0] === at ? "" : " (" + chart.x + " " + short(best[0]) + ")"));
    }
    readout.hidden = false;
    const beside = svg.offsetLeft || 12;
    const right = px > layout.width / 2;
    readout.style.left = right ? "auto" : beside + px + 22 + "px";
    readout.style.right = right ? layout.width - px + 22 + "px" : "auto";
    readout.style.top = head.offsetHeight + 18 + "px";
  }

  function leave() {
    state.at = null;
    readout.hidden = true;
    svg.querySelectorAll(".cross").forEach((node) => node.remove());
  }

  svg.addEventListener("pointermove", (event) => {
    if (!layout) return;
    const px = event.clientX - svg.getBoundingClientRect().left;
    point(layout.places.reduce((a, b) => (Math.abs(layout.x.place(b) - px) < Math.abs(layout.x.place(a) - px) ? b : a)));
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step || !layout) return;
    event.preventDefault();
    const now = layout.places.indexOf(state.at);
    const next = now < 0 ? (step > 0 ? 0 : layout.places.length - 1) : Math.min(Math.max(now + step, 0), layout.places.length - 1);
    point(layout.places[next]);
  });
  new ResizeObserver(draw).observe(holder);
  draw();
}

// ---------------------------------------------------------------- points

// Coordinates come in steps of 1/2000 of their axis. Draws one histogram, a plane, or a matrix of pairs.
function drawPoints(canvas, axes, columns, ink, trails) {
  const size = canvas.clientWidth;
  if (!size) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(size * ratio);
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, size, size);
  const count = axes.length;
  if (count === 1) return histogram(brush, columns[0], { x: 6, y: 6, w: size - 12, h: size - 26 }, ink, axes[0], true);
  if (count === 2) return scatter(brush, columns[0], columns[1], { x: 0, y: 0, w: size, h: size }, ink, trails && [trails[0], trails[1]]);
  const margin = 4, cell = (size - 2 * margin) / count, gap = 3;
  for (let row = 0; row < count; row++) {
    for (let column = 0; column <= row; column++) {
      const box = { x: margin + column * cell, y: margin + row * cell, w: cell - gap, h: cell - gap };
      brush.strokeStyle = colour("--line");
      brush.strokeRect(box.x + 0.5, box.y + 0.5, box.w - 1, box.h - 1);
      if (row === column) histogram(brush, columns[row], box, ink, axes[row], false);
      else scatter(brush, columns[column], columns[row], box, ink, trails && [trails[column], trails[row]]);
    }
  }
}

function scatter(brush, xs, ys, box, ink, trails) {
  brush.save();
  brush.beginPath();
  brush.rect(box.x, box.y, box.w, box.h);
  brush.clip();
  const px = (value) => box.x + (box.w * value) / 2000, py = (value) => box.y + box.h - (box.h * value) / 2000;
  if (trails) {
    brush.strokeStyle = colour("--soft");
    brush.globalAlpha = 0.35;
    brush.lineWidth = 0.8;
    brush.beginPath();
    for (let i = 0; i < Math.min(xs.length, 300); i++) {
      brush.moveTo(px(trails[0][i]), py(trails[1][i]));
      brush.lineTo(px(xs[i]), py(ys[i]));
    }
    brush.stroke();
  }
  brush.fillStyle = ink;
  brush.globalAlpha = xs.length > 600 ? 0.5 : 0.75;
  const r = Math.max(0.6, Math.min(1.6, (box.w / 230) * (xs.length > 4000 ? 0.7 : 1)));
  for (let i = 0; i < xs.length; i++) {
    brush.beginPath();
    brush.arc(px(xs[i]), py(ys[i]), r, 0, 7);
    brush.fill();
  }
  brush.restore();
}

function histogram(brush, values, box, ink, axis, labelled) {
  const bins = labelled ? 60 : 24, counts = new Array(bins).fill(0);
  for (const value of values) { const k = Math.floor((value / 2000) * bins); if (k >= 0 && k < bins) counts[k]++; }
  const top = Math.max(...counts, 1), wide = box.w / bins, room = labelled ? box.h : box.h - 16;
  brush.fillStyle = ink;
  brush.globalAlpha = 0.75;
  counts.forEach((n, k) => brush.fillRect(box.x + k * wide, box.y + box.h - (room * n) / top, Math.max(wide - 0.5, 0.5), (room * n) / top));
  brush.globalAlpha = 1;
  brush.fillStyle = colour("--ink");
  brush.font = "11px system-ui, sans-serif";
  if (labelled) {
    brush.textAlign = "left"; brush.fillText(short(axis.low), box.x, box.y + box.h + 15);
    brush.textAlign = "center"; brush.fillText(axis.name, box.x + box.w / 2, box.y + box.h + 15);
    brush.textAlign = "right"; brush.fillText(short(axis.high), box.x + box.w, box.y + box.h + 15);
  } else {
    brush.textAlign = "left"; brush.fillText(fitted(brush, axis.name, box.w - 6), box.x + 4, box.y + 12);
  }
}

function fitted(brush, text, width) {
  let kept = text;
  while (kept && brush.measureText(kept === text ? text : kept + "…").width > width) kept = kept.slice(0, -1);
  return kept === text ? text : kept + "…";
}

function inkOf(name, figure) {
  const known = { data: "--s2", "plain model": "--s3" };
  if (name in known) return colour(known[name]);
  return colour(figure.inverted.includes(name) ? "--s0" : "--s1");
}

function keepDrawn(canvas, draw) {
  redraws.push(draw);
  new ResizeObserver(draw).observe(canvas);
  draw();
}

function startMover(holder) {
  const figure = page.figures[holder.dataset.run];
  const slider = holder.querySelector("input[type=range]"), output = holder.querySelector("output");
  const radios = [...holder.querySelectorAll("input[type=radio]")], play = holder.querySelector(".play");
  const canvas = holder.querySelector("canvas.moving");
  const target = () => (radios.find((radio) => radio.checked) || { value: figure.inverted[0] }).value;
  const image = (name) => [...document.querySelectorAll("img[id^='panel-" + holder.dataset.run + "-']")].find((img) => img.dataset.name === name);

  function draw() {
    const t = slider.value / 100;
    output.textContent = slider.value + " %";
    if (canvas) {
      const from = figure.panels[figure.smoothed], to = figure.panels[target()];
      const now = from.map((column, k) => column.map((value, i) => value + t * (to[k][i] - value)));
      drawPoints(canvas, figure.axes, now, colour(t < 1 ? "--s1" : "--s0"), t > 0 ? from : null);
    } else {
      holder.querySelector(".from").src = image(figure.smoothed).src;
      holder.querySelector(".to").src = image(target()).src;
      holder.querySelector(".to").style.opacity = t;
    }
  }

  let running = 0;
  play.addEventListener("click", () => {
    cancelAnimationFrame(running);
    const begun = performance.now();
    const tick = (now) => {
      const t = Math.min((now - begun) / 1800, 1);
      slider.value = Math.round(100 * t);
      draw();
      if (t < 1) running = requestAnimationFrame(tick);
    };
    running = requestAnimationFrame(tick);
  });
  slider.addEventListener("input", () => { cancelAnimationFrame(running); draw(); });
  radios.forEach((radio) => radio.addEventListener("change", draw));
  const reference = holder.querySelector(".reference");
  if (reference) reference.src = image(reference.dataset.name).src;
  if (canvas) keepDrawn(canvas, draw); else draw();
}

function startLevels(holder) {
  const levels = page.levels[holder.dataset.run], figure = page.figures[holder.dataset.run];
  const slider = holder.querySelector("input"), output = holder.querySelector("output");
  const canvas = holder.querySelector("canvas"), images = [...holder.querySelectorAll("img")];
  function draw() {
    const level = levels[slider.value];
    const bound = level.bound === null ? "no bound" : "bound " + short(level.bound) + " nats after " + level.steps + " steps";
    output.textContent = "sigma " + short(level.sigma) + ", " + bound;
    slider.setAttribute("aria-valuetext", output.textContent);
    images.forEach((image, index) => { image.hidden = index !== Number(slider.value); });
    if (canvas) drawPoints(canvas, figure.axes, level.points, colour("--s1"), null);
  }
  slider.addEventListener("input", draw);
  if (canvas) keepDrawn(canvas, draw); else draw();
}

document.querySelectorAll("[data-chart]").forEach(startChart);
document.querySelectorAll("canvas[data-panel]").forEach((canvas) => {
  const figure = page.figures[canvas.dataset.run], name = canvas.dataset.panel;
  keepDrawn(canvas, () => drawPoints(canvas, figure.axes, figure.panels[name], inkOf(name, figure), null));
});
document.querySelectorAll(".mover").forEach(startMover);
document.querySelectorAll(".levels").forEach(startLevels);
document.querySelectorAll(".only").forEach((box) => {
  box.addEventListener("change", () => document.getElementById(box.dataset.for).classList.toggle("only-differences", box.checked));
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));
