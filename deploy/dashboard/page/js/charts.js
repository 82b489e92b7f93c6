// Charts, drawn by ECharts in the colours of the page. Colours follow the value's name, so that a
// vendor has one colour in every chart.

import { h } from "./dom.js";
import { count, day, moment, percent } from "./format.js";

// Okabe and Ito's palette and lighter and darker forms of it: told apart by the colour-blind too.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8a6d00", "#5e4fa2", "#66a61e", "#1b7f8c", "#b15928", "#7570b3"];
const FIXED = { other: "#9aa5ad", unknown: "#c5ccd1", proprietary: "#a4243b", chinese_open: "#e69f00", other_open: "#009e73" };
const drawn = new Set();

export function colours(values) {
  const free = [...COLOURS];
  const found = {};
  for (const value of [...values].sort((a, b) => hash(a) - hash(b))) {
    if (FIXED[value]) { found[value] = FIXED[value]; continue; }
    const colour = COLOURS[hash(value) % COLOURS.length];
    found[value] = free.includes(colour) ? colour : free[0] ?? colour;
    if (free.includes(found[value])) free.splice(free.indexOf(found[value]), 1);
  }
  return found;
}

function hash(text) {
  let value = 2166136261;
  for (let at = 0; at < text.length; at += 1) value = Math.imul(value ^ text.charCodeAt(at), 16777619) >>> 0;
  return value;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A chart that follows the size of its place and the theme; `update` draws it anew.
export function chart(label) {
  const place = h("div", { class: "chart", role: "img", "aria-label": label });
  let made = null;
  let last = null;
  const draw = () => {
    if (!place.isConnected || !last) return;
    made ??= echarts.init(place, null, { renderer: "canvas" });
    made.setOption({ ...ground(), ...last() }, { notMerge: true });
  };
  const watcher = new ResizeObserver(() => { if (made) made.resize(); else draw(); });
  watcher.observe(place);
  const self = {
    place,
    update(options, text) { last = options; if (text) place.setAttribute("aria-label", text); draw(); },
    redraw: draw,
    on(event, handler) { draw(); made?.on(event, handler); },
    close() { watcher.disconnect(); made?.dispose(); drawn.delete(self); },
  };
  drawn.add(self);
  return self;
}

export function redrawAll() { drawn.forEach((each) => each.redraw()); }
export function closeAll() { drawn.forEach((each) => each.close()); }

function ground() {
  return {
    animation: false,
    useUTC: true,
    textStyle: { fontFamily: "inherit", color: css("--ink") },
    grid: { left: 8, right: 18, top: 44, bottom: 8, containLabel: true },
    legend: { type: "scroll", top: 0, textStyle: { color: css("--ink") }, pageTextStyle: { color: css("--quiet") }, pageIconColor: css("--accent") },
  };
}

function axis(more) {
  return {
    axisLine: { lineStyle: { color: css("--line") } },
    axisLabel: { color: css("--quiet"), hideOverlap: true, ...more.axisLabel },
    splitLine: { show: more.split ?? true, lineStyle: { color: css("--line") } },
    nameTextStyle: { color: css("--quiet") },
    ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "axisLabel" && key !== "split")),
  };
}

function tip(formatter, trigger) {
  return { trigger, confine: true, formatter, backgroundColor: css("--panel"), borderColor: css("--line"), textStyle: { color: css("--ink") } };
}

const escaped = (text) => echarts.format.encodeHTML(String(text));

// Rows of (time, value, y) as lines or stacked areas. `marks` are {at, text}.
export function overTime({ rows, time, value, y, text = percent, stacked = true, max = null, marks = [] }) {
  return () => {
    const times = [...new Set(rows.map((row) => row[time]))].sort((a, b) => a - b);
    const sums = new Map();
    const cells = new Map();
    for (const row of rows) {
      sums.set(row[value], (sums.get(row[value]) ?? 0) + (row[y] ?? 0));
      cells.set(`${row[value]}\n${row[time]}`, row[y]);
    }
    const last = ["other", "unknown"];
    const names = [...sums.keys()].sort((a, b) => last.indexOf(a) - last.indexOf(b) || sums.get(b) - sums.get(a));
    const colour = colours(names);
    return {
      legend: { ...ground().legend, icon: "roundRect", itemWidth: 11, itemHeight: 11 },
      tooltip: tip((points) => [
        `<b>${moment(points[0].value[0])}</b>`,
        ...points.filter((point) => point.value[1]).sort((a, b) => b.value[1] - a.value[1]).slice(0, 14)
          .map((point) => `${point.marker} ${escaped(point.seriesName)} <b>${escaped(text(point.value[1]))}</b>`),
      ].join("<br>"), "axis"),
      xAxis: axis({ type: "time", split: false, axisLabel: { formatter: timeLabel(times) } }),
      yAxis: axis({ type: "value", min: 0, max, axisLabel: { formatter: (number) => text(number, 0) } }),
      series: names.map((name, at) => ({
        // An area needs two points; before that there are columns.
        name, type: stacked && times.length < 3 ? "bar" : "line", barMaxWidth: 60, symbol: times.length > 2 ? "none" : "circle", color: colour[name],
        lineStyle: { width: stacked ? 0.5 : 2 },
        ...(stacked ? { stack: "all" } : {}), ...(stacked && times.length > 2 ? { areaStyle: { opacity: 0.85 } } : {}),
        emphasis: { focus: "series" },
        data: times.map((each) => [each, cells.get(`${name}\n${each}`) ?? (stacked ? 0 : null)]),
        ...(at === 0 && marks.length ? { markLine: marked(marks) } : {}),
      })),
    };
  };
}

// Dates, times, or both, as the length of the axis needs.
function timeLabel(times) {
  const length = times.at(-1) - times[0];
  if (length > 4 * 86400e3) return (at) => day(at);
  return length > 36 * 3600e3 ? (at) => moment(at).slice(5) : (at) => moment(at).slice(11) + (length < 300e3 ? `:${new Date(at).toISOString().slice(17, 19)}` : "");
}

function marked(marks) {
  return {
    symbol: "none", silent: false,
    lineStyle: { color: css("--quiet"), type: "dashed", width: 1 },
    label: { formatter: (mark) => mark.name, position: "insideEndTop", color: css("--ink"), fontSize: 10, textBorderColor: css("--panel"), textBorderWidth: 3 },
    tooltip: { formatter: (mark) => escaped(mark.data.text) },
    data: marks.map((mark) => ({ xAxis: mark.at, name: mark.name, text: mark.text })),
  };
}

// Points of {x, y, name, group, text} on two logarithmic axes, cut at the medians.
export function priceMap({ points, medianX, medianY, titleX, titleY }) {
  return () => {
    const groups = [...new Set(points.map((point) => point.group))].sort();
    const colour = colours(groups);
    const lines = { symbol: "none", silent: true, label: { show: false }, lineStyle: { color: css("--quiet"), type: "dashed" }, data: [{ xAxis: medianX }, { yAxis: medianY }] };
    return {
      tooltip: tip((point) => escaped(point.data.text).replaceAll("\n", "<br>"), "item"),
      xAxis: axis({ type: "log", name: titleX, nameLocation: "middle", nameGap: 28, axisLabel: { formatter: (value) => `$${value}` } }),
      yAxis: axis({ type: "log", name: titleY, axisLabel: { formatter: count } }),
      grid: { left: 12, right: 24, top: 56, bottom: 28, containLabel: true },
      series: groups.map((group, at) => ({
        name: group, type: "scatter", color: colour[group], symbolSize: 11,
        data: points.filter((point) => point.group === group).map((point) => ({ value: [point.x, point.y], name: point.name, text: point.text })),
        ...(at === 0 ? { markLine: lines } : {}),
      })),
    };
  };
}

// Two shares of each name as a line between two points.
export function dumbbells({ rows, before, after, titles }) {
  return () => {
    const shown = [...rows].reverse();
    const names = shown.map((row) => row.value);
    return {
      tooltip: tip((point) => `${escaped(point.name)}<br>${escaped(point.seriesName)}: <b>${percent(point.value[0], 2)}</b>`, "item"),
      xAxis: axis({ type: "value", min: 0, axisLabel: { formatter: (value) => percent(value, 0) } }),
      yAxis: axis({ type: "category", data: names, split: false, axisLabel: { color: css("--ink"), width: 180, overflow: "truncate" } }),
      series: [
        { type: "bar", stack: "gap", silent: true, barWidth: 3, itemStyle: { color: "transparent" }, data: shown.map((row) => Math.min(row[before] ?? 0, row[after] ?? 0)) },
        { type: "bar", stack: "gap", silent: true, barWidth: 3, itemStyle: { color: css("--line") }, data: shown.map((row) => Math.abs((row[before] ?? 0) - (row[after] ?? 0))) },
        { name: titles[0], type: "scatter", color: "#9aa5ad", symbolSize: 11, data: shown.map((row) => ({ name: row.value, value: [row[before] ?? 0, row.value] })) },
        { name: titles[1], type: "scatter", color: "#0072b2", symbolSize: 11, data: shown.map((row) => ({ name: row.value, value: [row[after] ?? 0, row.value] })) },
      ],
      legend: { top: 0, data: titles, textStyle: { color: css("--ink") } },
    };
  };
}
