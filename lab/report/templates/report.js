"use strict";
/* The page is complete without this: it adds the plots of distributions, downloads and quicker hints. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const UNITS = {
    ns: [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]],
    ms: [[1e3, "s"], [1, "ms"], [1e-3, "µs"]],
    s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
    "packets/s": [[1e6, "M packets/s"], [1, "packets/s"]],
    "bit/s": [[1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"], [1, "bit/s"]],
  };
  const ARMS = { with: "--with", hook: "--hook", without: "--without", again: "--without", difference: "--difference" };
  const NAMES = { with: "with the program", hook: "an empty program", without: "without", again: "without, once more", difference: "added" };
  const DASHES = { without: [5, 3], again: [1, 3] };
  const UNSUBTRACTED = 0.99; /* Beyond, the tail is interrupts, in every arm: their difference says nothing. */
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function quantity(value, unit, least = 2) {
    if (value === null || value === undefined) return "–";
    const steps = UNITS[unit] || [[1, unit]];
    const [factor, shown] = steps.find(([size]) => Math.abs(value) >= size) || steps[steps.length - 1];
    const scaled = value / factor;
    const digits = Number.isInteger(scaled) ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(scaled))));
    return scaled.toLocaleString("en", { minimumFractionDigits: Math.min(digits, least), maximumFractionDigits: digits }).replace("-", "−") + " " + shown;
  }

  /* Shares of the tail grow in nines: 90 %, 99 %, 99.9 % stand equally far apart. */
  const nines = (share) => -Math.log10(1 - share);
  const percent = (share) => {
    const shown = (share * 100).toFixed(share > 0.999 ? 3 : share > 0.99 ? 2 : share > 0.9 ? 1 : 0);
    return (shown.includes(".") ? shown.replace(/\.?0+$/, "") : shown) + " %";
  };

  function valueAt(curve, share) {
    let low = 0, high = curve.share.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (curve.share[middle] < share - 1e-9) low = middle + 1; else high = middle;
    }
    return curve.value[low];
  }

  function armNames(m) {
    const order = Object.keys(NAMES);
    return Object.keys(m.curves).sort((a, b) => order.indexOf(b) - order.indexOf(a));
  }

  function limitsOf(m) {
    return m.limit ? [{ value: m.limit.value, label: `limit ${quantity(m.limit.value, m.unit)}` }] : [];
  }

  const seriesOf = (m, names, options) => names.map((name, index) => ({
    label: NAMES[name] || name,
    stroke: colour(ARMS[name] || ["--with", "--difference", "--passed", "--without"][index % 4]),
    width: 2,
    dash: DASHES[name],
    points: { show: false },
    ...options(name),
  }));

  /* Positive values a log axis can show; null where there is none. */
  const positive = (values) => values.map((value) => (value > 0 ? value : null));

  function percentileName(share, narrow) {
    if (share === 0) return narrow ? "" : "least";
    return share === 0.5 ? "median" : `p${percent(share).replace(" %", "")}`;
  }

  /* Of two bare paths their mean, as the instrument takes it. */
  function bare(m, share) {
    const paths = ["without", "again"].filter((name) => m.curves[name]);
    return paths.reduce((sum, name) => sum + valueAt(m.curves[name], share), 0) / paths.length;
  }

  const FEWEST = 4; /* Samples beyond the end of the axis. */

  function percentilesView(m) {
    const names = armNames(m);
    const most = 1 - FEWEST / Math.max(...m.trials.map((trial) => trial.facts.taken || trial.taken), 2 * FEWEST);
    const end = nines(Math.min(most, 0.99999));
    const shares = Array.from({ length: 241 }, (_, index) => 1 - 10 ** (-(index / 240) * end));
    const columns = names.map((name) => positive(shares.map((share) => valueAt(m.curves[name], share))));
    const both = m.curves.with && m.curves.without;
    if (both) columns.push(positive(shares.map((share) => (share > UNSUBTRACTED ? null : valueAt(m.curves.with, share) - bare(m, share)))));
    const shown = both ? [...names, "difference"] : names;
    const marks = [0, 0.5, 0.9, 0.99, 0.999, 0.9999].filter((share) => nines(share) <= end * 1.02);
    return {
      data: [shares.map(nines), ...columns],
      scales: { x: { time: false, range: [0, end] }, y: { distr: 3, range: around(columns, limitsOf(m)) } },
      x: { splits: () => marks.map(nines), values: (plot) => marks.map((share) => percentileName(share, plot.width < 480)) },
      y: logAxis(m.unit),
      names: shown, xName: "percentile", xText: (place) => percent(1 - 10 ** -place), yText: (value) => quantity(value, m.unit),
      horizontal: limitsOf(m),
      hint: both ? "What is added is drawn up to p99: the tail beyond is interrupts, in every arm. A limit speaks of it. Drag to zoom, double-click to see all again." : "Drag to zoom, double-click to see all again.",
    };
  }

  function ecdfView(m) {
    const names = armNames(m);
    const values = [...new Set(names.flatMap((name) => m.curves[name].value))].filter((value) => value > 0).sort((a, b) => a - b);
    const columns = names.map((name) => {
      const { share, value } = m.curves[name];
      let index = -1;
      return values.map((place) => {
        while (index + 1 < value.length && value[index + 1] <= place) index += 1;
        return index < 0 ? 0 : share[index] * 100;
      });
    });
    return {
      data: [values, ...columns],
      scales: { x: { time: false, distr: 3, range: around([values], []) }, y: { range: [0, 100] } },
      x: logAxis(m.unit), y: { values: (_, ticks) => ticks.map((tick) => `${tick} %`) },
      names, xName: "at most", xText: (place) => quantity(place, m.unit), yText: (value) => percent(value / 100),
      stepped: true, hint: "Share of the samples that are at most this long.",
    };
  }

  function orderView(m) {
    const names = armNames(m);
    const columns = names.map((name) => m.trials.filter((trial) => trial.arm === name).flatMap((trial) => trial.samples));
    const longest = Math.max(...columns.map((column) => column.length));
    const every = Math.max(...m.trials.map((trial) => trial.every));
    const padded = columns.map((column) => positive([...column, ...Array(longest - column.length).fill(null)]));
    return {
      data: [Array.from({ length: longest }, (_, index) => index * every + 1), ...padded],
      scales: { x: { time: false }, y: { distr: 3, range: around(padded, []) } },
      x: {}, y: logAxis(m.unit),
      names, xName: "sample", xText: (place) => place.toLocaleString("en"), yText: (value) => quantity(value, m.unit),
      dots: true, hint: every > 1 ? `Every ${every}th sample; the other two views hold them all.` : "Every sample, in the order in which it was taken.",
    };
  }

  function around(columns, limits) {
    const values = columns.flat().filter((value) => value !== null).concat(limits.map((limit) => limit.value));
    const low = Math.min(...values), high = Math.max(...values);
    return () => [low / 1.15, high * 1.15];
  }

  /* Round places on a log axis, as many as fit: decades, or 1-2-5, or every tenth. */
  function logPlaces(plot, axis, low, high) {
    const decades = Math.log10(high / low);
    const leads = decades > 2.5 ? [1] : decades > 0.9 ? [1, 2, 5] : decades > 0.45 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 8, 9];
    const places = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const lead of leads) places.push(Number((lead * 10 ** power).toPrecision(6)));
    }
    return places.filter((place) => place >= low && place <= high);
  }
  const logAxis = (unit) => ({ splits: logPlaces, filter: (_, places) => places, values: (_, places) => places.map((place) => quantity(place, unit, 0)) });

  function limitPlugin(limits) {
    return {
      hooks: {
        draw: (plot) => {
          const { ctx, bbox } = plot;
          for (const limit of limits) {
            const y = plot.valToPos(limit.value, "y", true);
            if (y < bbox.top || y > bbox.top + bbox.height) continue;
            ctx.save();
            ctx.strokeStyle = ctx.fillStyle = colour("--limit");
            ctx.lineWidth = 1.5 * devicePixelRatio;
            ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
            ctx.beginPath();
            ctx.moveTo(bbox.left, y);
            ctx.lineTo(bbox.left + bbox.width, y);
            ctx.stroke();
            ctx.font = `${12 * devicePixelRatio}px ${getComputedStyle(document.body).fontFamily}`;
            ctx.textAlign = "left";
            ctx.textBaseline = "bottom";
            ctx.fillText(limit.label, bbox.left + 6 * devicePixelRatio, y - 3 * devicePixelRatio);
            ctx.restore();
          }
        },
      },
    };
  }

  function draw(box, m, view) {
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: colour("--soft"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 } };
    const options = (name) => ({
      value: (_, value) => (value === null || value === undefined ? "–" : view.yText(value)),
      paths: view.dots ? () => null : view.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      points: view.dots ? { show: true, size: 3, fill: colour(ARMS[name] || "--with"), width: 0 } : { show: false },
      width: name === "difference" ? 3 : 2,
    });
    const canvas = box.querySelector(".canvas");
    canvas.replaceChildren();
    return new uPlot({
      width: Math.max(200, box.clientWidth), height: 300,
      scales: view.scales,
      series: [{ label: view.xName, value: (_, place) => (place === null || place === undefined ? "–" : view.xText(place)) }, ...seriesOf(m, view.names, options)],
      axes: [{ ...axis, ...view.x }, { ...axis, size: 64, ...view.y }],
      cursor: { drag: { x: true, y: false }, points: { show: !view.dots } },
      plugins: [limitPlugin(view.horizontal || [])],
    }, view.data, canvas);
  }

  const VIEWS = [["Percentiles", percentilesView], ["Cumulative", ecdfView], ["In order", orderView]];
  const plots = new Map();

  function build(box) {
    const m = data[box.dataset.measurement];
    const choice = document.createElement("fieldset");
    choice.className = "views";
    choice.setAttribute("aria-label", "View");
    VIEWS.forEach(([name], index) => {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: `view-${box.dataset.measurement}`, value: String(index), checked: index === 0 });
      radio.addEventListener("change", () => show(box, m, index));
      label.append(radio, name);
      choice.append(label);
    });
    const canvas = document.createElement("div");
    canvas.className = "canvas";
    const hint = document.createElement("p");
    hint.className = "plot-hint";
    box.replaceChildren(choice, canvas, hint);
    show(box, m, 0);
  }

  function show(box, m, index) {
    const view = VIEWS[index][1](m);
    if (plots.has(box)) plots.get(box).plot.destroy();
    box.querySelector(".plot-hint").textContent = view.hint;
    plots.set(box, { plot: draw(box, m, view), m, index });
  }

  const redraw = () => plots.forEach(({ m, index }, box) => show(box, m, index));
  const boxes = [...document.querySelectorAll(".plot")];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || plots.has(entry.target)) continue;
      seen.unobserve(entry.target);
      build(entry.target);
    }
  }, { rootMargin: "600px" });
  boxes.forEach((box) => seen.observe(box));
  new ResizeObserver(() => plots.forEach(({ plot }, box) => {
    if (box.clientWidth && plot.width !== box.clientWidth) plot.setSize({ width: box.clientWidth, height: 300 });
  })).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  addEventListener("beforeprint", () => {
    boxes.forEach((box) => plots.has(box) || build(box));
    redraw();
  });
  addEventListener("afterprint", redraw);

  /* A link into a closed part opens it. */
  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", openTarget);
  if (location.hash) openTarget();

  document.querySelectorAll("[data-download]").forEach((button) => button.addEventListener("click", () => {
    const keys = button.dataset.download === "*" ? Object.keys(data) : button.dataset.download.trim().split(/\s+/);
    const chosen = keys.map((key) => data[key]);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(chosen, null, 1)], { type: "application/json" }));
    link.download = keys.length === 1 ? `${chosen[0].program}-${chosen[0].metric}.json` : "bpflab-trials.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));

  /* Hints at once, and for the keyboard too. */
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  document.querySelectorAll(".square[title]").forEach((square) => {
    square.setAttribute("aria-label", square.title);
    square.dataset.tip = square.title;
    square.removeAttribute("title");
  });
  document.querySelectorAll(".dots title, .cost title, .forest title, .bill title, .losses title").forEach((title) => {
    title.parentElement.dataset.tip = title.textContent;
    title.remove();
  });
  const hintAt = (event) => {
    const owner = event.target instanceof Element && event.target.closest("[data-tip]");
    tip.hidden = !owner;
    if (!owner) return;
    tip.textContent = owner.dataset.tip;
    const place = owner.getBoundingClientRect();
    const left = Math.max(8, Math.min(place.left + place.width / 2 - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 8));
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${place.top + scrollY - tip.offsetHeight - 8}px`;
  };
  ["pointerover", "focusin"].forEach((kind) => document.addEventListener(kind, hintAt));
  document.addEventListener("focusout", () => { tip.hidden = true; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
})();
