"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const LEAD = ["stage", "where", "kind", "bound"];
  const rows = data.rows.map((values, id) => {
    const row = { id };
    LEAD.concat(data.columns).forEach((name, at) => { row[name] = values[at]; });
    row.text = `${row.stage} ${row.where} ${row.kind} ${row.bound}`.toLowerCase();
    return row;
  });
  const ms = (ns) => (ns / 1e6).toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const count = (value) => value.toLocaleString("en");
  const share = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)}%`);
  const figures = (row) => [
    ["bound", row.bound || "–"], ["wall", `${ms(row.wall_ns)} ms`], ["busy", `${ms(row.busy_owned_ns)} ms`],
    ["idle", `${ms(row.idle_owned_ns)} ms`], ["roofline", `${ms(row.roofline_ns)} ms`], ["lost", `${ms(row.lost_ns)} ms`],
    ["roof/busy", share(row.efficiency)], ["tax kernels", share(row.busy_owned_ns ? row.tax_ns / row.busy_owned_ns : null)],
    ["TFLOP/s busy", row.achieved_tflops ?? "–"], ["GB/s busy", row.achieved_gbps ?? "–"], ["FLOP/B", row.intensity ?? "–"],
    ["calls", count(row.calls)], ["launches", count(row.launches)],
    ...[["host code", row.idle_host_ns], ["launch calls", row.idle_launch_ns], ["synchronising", row.idle_sync_ns],
      ["allocation, copies", row.idle_memory_ns]].filter(([, ns]) => ns > 0).map(([name, ns]) => [`idle: ${name}`, `${ms(ns)} ms`]),
  ];
  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  // Filters: what the boxes, the search and a clicked mark or cell leave, in the chart and in the table alike.
  const points = $$("#plot .points a");
  const lines = $$("#table tbody tr");
  const rowsOf = (point) => point.dataset.rows.split(" ").map(Number);
  const byRow = new Map(points.flatMap((point) => rowsOf(point).map((id) => [id, point])));
  let only = null;
  const allowed = (name) => new Set($$(`input[data-${name}]`).filter((box) => box.checked).map((box) => box.dataset[name]));
  const filter = () => {
    const [stages, bounds] = [allowed("stage"), allowed("bound")];
    const asked = $("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    let wall = 0;
    for (const row of rows) {
      const on = stages.has(row.stage) && (!row.bound || bounds.has(row.bound)) && asked.every((word) => row.text.includes(word))
        && (only === null || only.has(row.id));
      row.on = on;
      row.line.hidden = !on;
      shown += on;
      wall += on ? row.wall_ns : 0;
    }
    points.forEach((point) => point.classList.toggle("off", !rowsOf(point).some((id) => rows[id].on)));
    const status = $("#count");
    status.textContent = `${count(shown)} of ${count(rows.length)} rows, ${ms(wall)} ms of wall time`;
    status.dataset.wallNs = wall;
    rove(reachable().find((point) => point.tabIndex === 0) ?? reachable()[0]);
  };
  rows.forEach((row) => { row.line = lines[row.id]; });
  const reachable = () => points.filter((point) => !point.classList.contains("off"));
  const rove = (next) => points.forEach((point) => { point.tabIndex = point === next ? 0 : -1; });
  $$(".filters input").forEach((box) => box.addEventListener("input", filter));
  $("#clear").addEventListener("click", () => {
    $$(".filters [data-stage], .filters [data-bound]").forEach((box) => { box.checked = true; });
    $("#search").value = "";
    only = null;
    choose(null);
    filter();
  });

  // One row chosen: its figures and kernels, beside the chart.
  // From the table it opens under the row, so that nothing jumps; from elsewhere in its own place under the chart.
  const home = $("#chosen").parentElement;
  const under = element("tr");
  under.append(element("td", undefined, "detail"));
  under.firstChild.colSpan = 15;
  const choose = (row, line) => {
    $$(".chosen").forEach((found) => found.classList.remove("chosen"));
    const panel = $("#chosen");
    if (line) { line.after(under); under.firstChild.append(panel); } else { under.remove(); home.append(panel); }
    panel.hidden = row === null;
    if (row === null) return;
    byRow.get(row.id)?.classList.add("chosen");
    row.line.classList.add("chosen");
    $("#h-chosen").textContent = `${row.stage} ${row.where}`;
    const list = $("#figures");
    list.replaceChildren(...figures(row).map(([name, value]) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", String(value)));
      return pair;
    }));
    $("#kernels tbody").replaceChildren(...data.kernels[row.id].map(([name, operations, ns]) => {
      const line = element("tr");
      const text = element("td", undefined, "name");
      const [short, , full] = data.names[name];
      if (short === full) text.append(element("bdi", full));
      else {
        const more = element("details");
        more.append(element("summary", short), element("bdi", full));
        text.append(more);
      }
      line.append(element("td", ms(ns), "n"), element("td", share(row.busy_owned_ns ? ns / row.busy_owned_ns : null), "n"),
        element("td", count(operations), "n"), element("td", data.names[name][1].replace("_", " ")), text);
      return line;
    }));
  };
  const open = (row, also) => {
    only = new Set(also);
    filter();
    choose(row);
    $("#chosen").scrollIntoView({ block: "nearest" });
    $("#chosen").focus({ preventScroll: true });
  };
  const alike = (row) => rows.filter((other) => other.stage === row.stage && other.kind === row.kind
    && other.where.split(/[. ]/)[0] === row.where.split(/[. ]/)[0]).map((other) => other.id);

  // Equal layers of one mark: their sums, and what follows from those.
  const SUMS = ["calls", "launches", "wall_ns", "busy_owned_ns", "tax_ns", "idle_owned_ns", "roofline_ns", "lost_ns", "idle_host_ns",
    "idle_launch_ns", "idle_sync_ns", "idle_memory_ns", "idle_queued_ns", "small_ns"];
  const together = (ids) => {
    const first = rows[ids[0]];
    if (ids.length === 1) return first;
    const sum = (of) => ids.reduce((total, id) => total + of(rows[id]), 0);
    const made = { ...first };
    SUMS.forEach((name) => { made[name] = sum((row) => row[name]); });
    made.efficiency = made.busy_owned_ns ? made.roofline_ns / made.busy_owned_ns : null;
    ["achieved_tflops", "achieved_gbps"].forEach((name) => {
      made[name] = Number((sum((row) => (row[name] ?? 0) * row.busy_owned_ns) / made.busy_owned_ns).toPrecision(4));
    });
    return made;
  };
  $("#moved").addEventListener("input", (event) => $("#plot").classList.toggle("moved", event.target.checked));

  // The chart: hover or focus for figures, arrows to the next, click or Enter to open.
  const tip = $("#tip");
  const tell = (point) => {
    const ids = rowsOf(point);
    const row = together(ids);
    tip.textContent = `${row.stage} ${row.where}${ids.length > 1 ? ` and ${ids.length - 1} equal layers, together` : ""}\n${figures(row).slice(0, 11).map(([name, value]) => `${name} ${value}`).join("\n")}`;
    tip.hidden = false;
    const [box, at, gone] = [$(".chart").getBoundingClientRect(), $("path", point).getBoundingClientRect(), $(".chart").scrollLeft];
    const left = at.right - box.left + 8;
    tip.style.left = `${gone + Math.max(0, left + tip.offsetWidth > box.width ? at.left - box.left - tip.offsetWidth - 8 : left)}px`;
    tip.style.top = `${Math.max(0, Math.min(at.top - box.top, box.height - tip.offsetHeight))}px`;
  };
  const hush = () => { tip.hidden = true; };
  const plot = $("#plot");
  const pointOf = (event) => event.target.closest?.(".points a");
  for (const [name, act] of [["mouseover", tell], ["focusin", tell]]) {
    plot.addEventListener(name, (event) => { const point = pointOf(event); if (point) act(point); });
  }
  plot.addEventListener("mouseout", hush);
  plot.addEventListener("focusout", hush);
  plot.addEventListener("click", (event) => {
    const point = pointOf(event);
    if (!point) return;
    event.preventDefault();
    const ids = rowsOf(point);
    open(rows[ids[0]], ids.length > 1 ? ids : alike(rows[ids[0]]));
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { hush(); return; }
    const point = pointOf(event);
    if (!step || !point) return;
    event.preventDefault();
    const all = reachable();
    const next = all[(all.indexOf(point) + step + all.length) % all.length];
    rove(next);
    next.focus();
  });

  // Steps: the figures of the bar under the pointer, below the drawing.
  $$("svg.steps").forEach((drawing) => drawing.addEventListener("mouseover", (event) => {
    const bar = event.target.closest?.("g");
    if (bar) drawing.closest("figure").querySelector("[data-steps]").textContent = $("title", bar).textContent;
  }));

  // Heat map and table.
  $$(".heat button").forEach((button) => button.addEventListener("click", () => {
    const ids = button.dataset.rows.split(" ").map(Number);
    open(rows[ids[0]], ids);
  }));
  const body = $("#table tbody");
  body.addEventListener("click", (event) => {
    const line = event.target.closest(".open")?.closest("tr");
    if (line) { choose(rows[Number(line.id.slice(4))], line); $("#chosen").focus({ preventScroll: true }); }
  });
  const keys = ["stage", "where", "bound", "calls", "launches", "wall_ns", "busy_owned_ns", "tax_ns", "idle_owned_ns", "roofline_ns",
    "lost_ns", "efficiency", "achieved_tflops", "achieved_gbps", "intensity"];
  $$("#table thead button").forEach((button) => button.addEventListener("click", () => {
    const heading = button.closest("th");
    const key = keys[Number(button.dataset.column)];
    const wasDown = heading.getAttribute("aria-sort") === "descending";
    const up = heading.getAttribute("aria-sort") === "none" ? typeof rows[0]?.[key] === "string" : wasDown;
    $$("#table > thead th").forEach((other) => other.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row[key] ?? -Infinity;
    const order = [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const less = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return (up ? less : -less) || a.id - b.id;
    });
    body.append(...order.map((row) => row.line));
    if (under.isConnected) $("tr.chosen", body)?.after(under);
  }));

  // Light and dark: as the system has it, until the button is pressed.
  const theme = $("#theme");
  const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-pressed", String(dark())); };
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
  filter();
})();
