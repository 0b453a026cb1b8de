// Curves of one run or of several, drawn by uPlot. What is shown stands behind the # of the address, so a link shows the
// same. The server sends as many points as fit on the screen, and then only what is new.

const EVERY = 3000;
const root = document.getElementById("curves");
const runs = [...root.querySelectorAll(".run")].map((data, number) => ({
  id: data.value, name: data.textContent, number, epoch: "", last: -1, names: [], notes: [], read: 1, curves: new Map(),
}));
const FIRST = ["loss", "lr", "grad_norm", "online/linear", "online/knn", "images_per_second", "data_wait_share"];
const MOST_CHARTS = 32;
const AXES = { step: "step", samples: "samples seen", time: "time since the first line" };
const charts = new Map(); // by metric

// ---- what is shown, in the address

const state = read();

function read() {
  const words = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (words.has(name) && Number.isFinite(Number(words.get(name))) ? Number(words.get(name)) : null);
  return {
    metrics: words.has("m") ? words.getAll("m").slice(0, MOST_CHARTS) : null,
    x: words.get("x") in AXES ? words.get("x") : "step",
    smooth: Math.min(0.99, Math.max(0, number("s") ?? (runs.length > 1 ? 0.6 : 0))),
    logx: words.get("lx") === "1",
    logy: words.get("ly") === "1",
    from: number("from"),
    to: number("to"),
  };
}

function write() {
  const words = new URLSearchParams();
  for (const name of state.metrics ?? []) words.append("m", name);
  if (state.x !== "step") words.set("x", state.x);
  if (state.smooth !== (runs.length > 1 ? 0.6 : 0)) words.set("s", state.smooth);
  if (state.logx) words.set("lx", 1);
  if (state.logy) words.set("ly", 1);
  if (state.from !== null) words.set("from", state.from);
  if (state.to !== null) words.set("to", state.to);
  history.replaceState(null, "", words.size ? `#${words}` : location.pathname + location.search);
}

// ---- numbers

function known() {
  return [...new Set(runs.flatMap((run) => run.names))].sort();
}

function shown() {
  const all = new Set(known());
  return state.metrics ?? FIRST.filter((name) => all.has(name));
}

async function load(run, anew) {
  const names = shown();
  const words = new URLSearchParams([["run", run.id], ["x", state.x], ["known", run.names.length], ["bins", bins()]]);
  for (const name of names) words.append("name", name);
  if (state.from !== null) words.set("from", state.from);
  if (state.to !== null) words.set("to", state.to);
  const same = !anew && names.every((name) => run.asked?.has(name));
  if (same) { words.set("epoch", run.epoch); words.set("after", run.last); }
  const answer = await fetch(`curves.json?${words}`, { signal: AbortSignal.timeout(30000) });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
  const told = await answer.json();
  if (told.busy) return false;
  run.asked = new Set(names);
  const moved = told.last !== run.last || told.epoch !== run.epoch || !same;
  Object.assign(run, { epoch: told.epoch, last: told.last, notes: told.notes, read: told.read });
  if (told.names) run.names = told.names;
  for (const [name, fresh] of Object.entries(told.metrics)) run.curves.set(name, joined(run.curves.get(name), fresh));
  return moved;
}

function joined(old, fresh) {
  if (!old || fresh.replaces === null) return fresh;
  let kept = old.step.length;
  while (kept && old.step[kept - 1] >= fresh.replaces) kept--;
  const both = (name) => [...old[name].slice(0, kept), ...fresh[name]];
  const rim = (name) => (old[name] || fresh[name] ? [...(old[name] ?? old.mean).slice(0, kept), ...(fresh[name] ?? fresh.mean)] : null);
  return { ...fresh, step: both("step"), x: both("x"), mean: both("mean"), low: rim("low"), high: rim("high") };
}

function bins() {
  return Math.min(1200, Math.max(200, Math.ceil((root.clientWidth * Math.min(2, devicePixelRatio)) / 200) * 100));
}

function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0, norm = 0; // exponential moving average, corrected for its beginning
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return mean / norm;
  });
}

// ---- asking

let turn = 0, asking = false, timer = 0;

async function ask(anew = false) {
  if (asking && !anew) return;
  const mine = ++turn;
  asking = true;
  clearTimeout(timer);
  let failed = "";
  try {
    const before = known().length;
    let moved = (await Promise.all(runs.map((run) => load(run, anew)))).some(Boolean);
    if (mine !== turn) return;
    if (known().length !== before) { menu(); if (!before) moved = (await Promise.all(runs.map((run) => load(run, false)))).some(Boolean); }
    if (moved || anew) draw();
  } catch (error) {
    failed = "No answer; this is what was known before.";
  }
  if (mine !== turn) return;
  asking = false;
  say(failed);
  timer = setTimeout(() => (document.hidden ? null : ask()), runs.some((run) => run.read < 1) ? 50 : EVERY);
}

function say(failed) {
  const reading = runs.filter((run) => run.read < 1).map((run) => `reading ${run.name}: ${Math.floor(100 * run.read)} %`);
  const notes = runs.flatMap((run) => run.notes.map((note) => (runs.length > 1 ? `${run.name}: ${note}` : note)));
  parts.notes.textContent = [failed, ...reading, ...notes].filter(Boolean).join(". ");
}

// ---- the page

const parts = {};

function element(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
}

function button(words, act, label = words) {
  return element("button", { type: "button", class: "plain", "aria-label": label, onclick: act }, words);
}

function change(values, anew = false) {
  Object.assign(state, values);
  write();
  if (anew) ask(true);
  else draw();
}

function build() {
  const x = element("select", { id: "along", onchange: () => change({ x: x.value, from: null, to: null }, true) },
    ...Object.entries(AXES).map(([name, words]) => element("option", { value: name, selected: name === state.x }, words)));
  const smooth = element("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: state.smooth, id: "smooth",
    oninput: () => change({ smooth: Number(smooth.value) }) });
  const tick = (name, words) => {
    const box = element("input", { type: "checkbox", checked: state[name], onchange: () => change({ [name]: box.checked }) });
    return element("label", {}, box, ` ${words}`);
  };
  parts.menu = element("details", { class: "menu" });
  parts.notes = element("p", { class: "quiet", role: "status", id: "notes" });
  parts.grid = element("div", { class: "charts" });
  parts.legend = element("p", { class: "legend" }, ...(runs.length > 1 ? runs.map((run) =>
    element("span", {}, element("i", { class: `mark r${run.number}`, "aria-hidden": "true" }), run.name)) : []));
  root.replaceChildren(
    element("div", { class: "controls", role: "group", "aria-label": "How the curves are drawn" },
      element("label", {}, "along ", x), element("label", {}, "smoothing ", smooth),
      tick("logy", "log values"), tick("logx", "log along"),
      element("span", { class: "zoom", role: "group", "aria-label": "Zoom" },
        button("+", () => zoom(0.5, 0), "zoom in on the newest half"), button("\u2212", () => zoom(2, 0), "zoom out"),
        button("\u2190", () => zoom(1, -0.5), "earlier"), button("\u2192", () => zoom(1, 0.5), "later"),
        button("all", () => change({ from: null, to: null }, true), "show all of it"))),
    parts.menu, parts.legend, parts.notes, parts.grid);
}

function menu() {
  const groups = new Map();
  for (const name of known()) {
    const group = name.includes("/") ? name.slice(0, name.indexOf("/")) : "training";
    groups.set(group, [...(groups.get(group) ?? []), name]);
  }
  const chosen = new Set(shown());
  const search = element("input", { type: "search", placeholder: "find a metric", "aria-label": "find a metric", oninput: () => {
    for (const label of parts.menu.querySelectorAll("fieldset label")) label.hidden = !label.textContent.includes(search.value);
  } });
  const summary = element("summary", {}, `Metrics (${chosen.size} of ${known().length})`);
  const pick = (box, name) => {
    const names = new Set(shown());
    box.checked ? names.add(name) : names.delete(name);
    summary.textContent = `Metrics (${names.size} of ${known().length})`;
    change({ metrics: [...names].slice(-MOST_CHARTS) }, true);
  };
  const sets = [...groups].map(([group, names]) => element("fieldset", {}, element("legend", {}, group), ...names.map((name) => {
    const box = element("input", { type: "checkbox", checked: chosen.has(name), onchange: () => pick(box, name) });
    return element("label", {}, box, ` ${name}`);
  })));
  parts.menu.replaceChildren(summary, search, element("div", { class: "groups" }, ...sets));
}

function range() {
  let low = Infinity, high = -Infinity;
  for (const run of runs) for (const name of shown()) {
    const { x } = run.curves.get(name) ?? { x: [] };
    if (x.length) { low = Math.min(low, x[0]); high = Math.max(high, x.at(-1)); }
  }
  return [state.from ?? low, state.to ?? high];
}

/** The same end at another size, or the same size elsewhere. */
function zoom(factor, shift) {
  const [low, high] = range();
  if (!(high > low)) return;
  const size = (high - low) * factor;
  const end = factor > 1 ? high + size / 4 : high + shift * size;
  if (end - size <= 0 && factor > 1) change({ from: null, to: null }, true);
  else change({ from: Math.max(0, end - size), to: Math.max(0, end - size) + size }, true);
}

// ---- charts

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size >= 1e9) return `${Number((value / 1e9).toPrecision(4))}G`;
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  if (size && size < 1e-4) return value.toExponential(3).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(4)));
}

function along(value) {
  if (state.x !== "time") return short(value);
  const minutes = value / 60;
  if (value < 120) return `${Math.round(value)} s`;
  return minutes < 120 ? `${Number(minutes.toPrecision(3))} min` : `${Number((minutes / 60).toPrecision(3))} h`;
}

/** Data and lines of one chart: for each run its envelope, what was measured, and its moving average. */
function assembled(name) {
  const tables = [], lines = [{}], bands = [];
  for (const run of runs) {
    const curve = run.curves.get(name);
    if (!curve?.x.length) continue;
    const positive = (values) => (state.logy ? values.map((value) => (value > 0 ? value : null)) : values);
    const keep = state.logx ? curve.x.map((x) => x > 0) : null;
    const cut = (values) => (keep ? values.filter((_, place) => keep[place]) : values);
    const paint = colour(`--r${run.number}`);
    const columns = [cut(curve.x)];
    const add = (values, line) => { columns.push(positive(cut(values))); lines.push({ label: run.name, spanGaps: true, points: { show: false }, ...line }); };
    if (curve.low) {
      bands.push({ series: [lines.length, lines.length + 1], fill: `${paint}33` });
      add(curve.high, { stroke: "transparent", width: 0 });
      add(curve.low, { stroke: "transparent", width: 0 });
    }
    if (state.smooth) add(curve.mean, { stroke: `${paint}66`, width: 1 });
    add(smoothed(curve.mean, state.smooth), { stroke: paint, width: 2, run, points: { show: columns[0].length < 60, size: 5, fill: paint } });
    if (columns[0].length) tables.push(columns);
  }
  return { data: tables.length ? uPlot.join(tables) : null, lines, bands };
}

function draw() {
  const names = shown();
  for (const [name, chart] of charts) if (!names.includes(name)) { chart.plot?.destroy(); chart.figure.remove(); charts.delete(name); }
  for (const name of names) {
    if (!charts.has(name)) charts.set(name, frame(name));
    const chart = charts.get(name);
    parts.grid.append(chart.figure);
    paint(chart, name);
  }
}

function frame(name) {
  const box = element("div", { class: "plot", role: "img" });
  const said = element("p", { class: "said" });
  return { figure: element("figure", { class: "card chart" }, element("figcaption", {}, name), said, box), box, said, key: "" };
}

function paint(chart, name) {
  const { data, lines, bands } = assembled(name);
  const lasts = runs.filter((run) => run.curves.get(name)?.mean.length).map((run) => {
    const curve = run.curves.get(name);
    const broken = curve.broken ? `, ${curve.broken} values not finite` : "";
    return { run, words: `${short(curve.mean.at(-1))} at ${AXES[state.x] === "step" ? "step " : ""}${along(curve.x.at(-1))}${broken}`, first: short(curve.mean[0]) };
  });
  chart.said.replaceChildren(...lasts.map(({ run, words }) => element("span", {}, runs.length > 1 ? element("i", { class: `mark r${run.number}`, "aria-hidden": "true" }) : "", words)));
  const told = lasts.map(({ run, words, first }) => `${run.name}: from ${first} to ${words}`).join("; ");
  chart.box.setAttribute("aria-label", `${name} along ${AXES[state.x]}. ${told || "no values here"}`);
  if (!data) { chart.plot?.destroy(); chart.plot = null; chart.key = ""; chart.said.textContent = "no values here"; return; }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const key = JSON.stringify([lines.length, bands.length, state.x, state.logx, state.logy, chart.box.clientWidth, dark, state.smooth > 0, lines.at(-1)?.points.show]);
  if (chart.plot && key === chart.key) { chart.plot.setData(data); return; }
  chart.plot?.destroy();
  chart.key = key;
  chart.plot = new uPlot(options(chart, lines, bands), data, chart.box);
}

function options(chart, lines, bands) {
  const axis = { stroke: colour("--quiet"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return {
    width: chart.box.clientWidth, height: 220, padding: [8, 8, 0, 0], bands, series: lines, legend: { show: false },
    scales: {
      x: { time: false, distr: state.logx ? 3 : 1, ...(state.from === null ? {} : { range: () => [state.from, state.to] }) },
      y: { distr: state.logy ? 3 : 1 },
    },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : along(tick))) },
      { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
    ],
    cursor: { sync: { key: "curves", scales: ["x", null] }, drag: { x: true, y: false, setScale: false }, points: { size: 7 } },
    hooks: {
      setSelect: [(plot) => {
        if (plot.select.width < 4) return;
        const [from, to] = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        change({ from, to }, true);
      }],
      setCursor: [(plot) => under(chart, plot, lines)],
    },
  };
}

/** The values below the pointer stand in the place of the last ones. */
function under(chart, plot, lines) {
  const { idx } = plot.cursor;
  if (idx === null || idx === undefined) { if (chart.tip) { chart.tip.remove(); chart.tip = null; } return; }
  const told = [`${state.x === "step" ? "step " : ""}${along(plot.data[0][idx])}`];
  lines.forEach((line, place) => {
    if (!line.run) return;
    let near = idx;
    while (near > 0 && (plot.data[place][near] === null || plot.data[place][near] === undefined)) near--;
    const value = plot.data[place][near];
    if (value !== null && value !== undefined) told.push(runs.length > 1 ? `${line.run.name} ${short(value)}` : short(value));
  });
  chart.tip ??= chart.figure.appendChild(element("p", { class: "tip", "aria-hidden": "true" }));
  chart.tip.textContent = told.join("  ·  ");
}

build();
menu();
ask(true);
document.addEventListener("visibilitychange", () => document.hidden || ask());
addEventListener("hashchange", () => { Object.assign(state, read()); build(); menu(); charts.clear(); ask(true); });
let width = root.clientWidth;
addEventListener("resize", () => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
