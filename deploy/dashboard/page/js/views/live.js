// Shares of the newest rolling window, as it rolls.

import { ask } from "../ask.js";
import { chart, colours, overTime } from "../charts.js";
import { DIMENSIONS, LIVE, choose, measure, pick } from "../controls.js";
import { h, table } from "../dom.js";
import { MEASURES, amount, clock, count, moment, percent, points, usd } from "../format.js";
import { panel } from "../panel.js";
import { link } from "../state.js";

const WINDOWS = { 60: "1 minute", 300: "5 minutes", 900: "15 minutes", 3600: "1 hour", 86400: "24 hours", 604800: "7 days" };
const SLIDES = { 60: 10, 300: 30, 900: 60, 3600: 300, 86400: 3600, 604800: 21600 };
const POLL_MS = 1000;
const KEPT_WINDOWS = 90;
const ROWS = 15;

export function live(state, place, signal) {
  const dimension = state.by ?? "vendor";
  const seconds = state.window ?? "60";
  const by = MEASURES[state.measure] ? state.measure : "tokens";
  const now = panel(`${DIMENSIONS[dimension] ?? dimension}: window of ${WINDOWS[seconds] ?? seconds}`);
  const before = panel(`How the window moved`, { note: "Each point is a whole window; neighbouring ones overlap." });
  const figures = h("dl", { class: "figures" });
  const picture = chart("Shares of the newest windows");
  place.append(
    h("h1", {}, "Live shares"),
    h("p", { class: "lead" }, "Rolling windows as they are given out: nothing that has not landed in ClickHouse, revised when events come late."),
    h("div", { class: "controls" },
      choose("Share of", "by", pick(LIVE), dimension), choose("Window", "window", WINDOWS, seconds), measure(by)),
    figures, h("div", { class: "panels" }, now.element, before.element));

  const kept = new Map();
  let shown = "";
  let historyOf = null;

  async function poll() {
    try {
      const answer = await ask("live", { dimension, seconds }, signal);
      if (!answer.rows.length) {
        figures.replaceChildren();
        now.empty([answer], "No window has been given out yet. The first one comes about a minute after the first events.", "tokentide simulate --rate 200");
        before.empty([answer], "Nothing to draw yet.");
        return;
      }
      const first = answer.rows[0];
      const version = `${first.window_end}/${first.given_at}/${by}`;
      if (version === shown) { now.fill([answer]); return; }
      shown = version;
      kept.set(first.window_end, answer.rows);
      figures.replaceChildren(...summary(first, by));
      now.fill([answer], first.is_complete ? null : h("p", { class: "notice warn" }, "A partition was missing when this window was given out; it is revised when it comes back."), rowsOf(answer.rows, by, dimension));
      await drawHistory(answer, first.window_end);
    } catch (error) {
      if (signal.aborted) return;
      now.fail(error);
      if (!kept.size) before.fail(error);
    }
  }

  async function drawHistory(answer, newest) {
    const slide = SLIDES[seconds] ?? 60;
    if (historyOf === null) {
      historyOf = await ask("live_history", { dimension, seconds, reach_seconds: slide * KEPT_WINDOWS }, signal);
      for (const row of historyOf.rows) {
        if (row.window_end !== newest) kept.set(row.window_end, [...(kept.get(row.window_end) ?? []), row]);
      }
    }
    for (const end of kept.keys()) if (end <= newest - slide * KEPT_WINDOWS * 1000) kept.delete(end);
    const rows = grouped([...kept.values()].flat(), answer.rows, MEASURES[by].share);
    before.fill([historyOf], picture.place);
    const leader = answer.rows.find((row) => row.value !== "other" && row.value !== "unknown");
    picture.update(overTime({ rows, time: "window_end", value: "value", y: "share", max: 1 }),
      `Share of ${MEASURES[by].title} over the last ${kept.size} windows; largest now: ${leader?.value} with ${percent(leader?.[MEASURES[by].share])}`);
  }

  (async () => {
    while (!signal.aborted) {
      if (!document.hidden) await poll();
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  })();
}

function summary(first, by) {
  const figure = (text, title) => h("div", {}, h("dd", {}, text), h("dt", {}, title));
  return [
    figure(count(first.tokens_total), "tokens"),
    figure(count(first.requests_total), "requests"),
    figure(usd(first.spend_total_usd), "spend"),
    figure(`${clock(first.window_start)} – ${clock(first.window_end)}`, `${moment(first.window_end).slice(0, 10)}, UTC`),
    figure(first.revision ? `revision ${first.revision}` : "first", first.revision ? "late events came in" : `given out ${clock(first.given_at)}`),
  ];
}

function rowsOf(rows, by, dimension) {
  const { share, change } = MEASURES[by];
  const colour = colours(ofTheirOwn(rows, share));
  const sorted = [...rows].sort((a, b) => (b[share] ?? 0) - (a[share] ?? 0) || a.value.localeCompare(b.value));
  const line = (row) => h("tr", {},
    h("td", { class: "name", title: row.value }, h("span", { class: "swatch", style: { background: colour[row.value] ?? "transparent" } }), named(row.value, dimension)),
    h("td", { class: "share", style: { "--part": `${(row[share] ?? 0) * 100}%` } }, percent(row[share], 2)),
    h("td", { class: row[change] > 0 ? "up" : row[change] < 0 ? "down" : "quiet" }, points(row[change])),
    h("td", {}, MEASURES[by].text(amount(by, row))),
    h("td", {}, count(row.users)));
  const columns = ["", `share of ${MEASURES[by].title}`, "points", MEASURES[by].title, "users ±3 %"];
  const caption = "Change: percentage points against the window before";
  const parts = [table(caption, columns, sorted.slice(0, ROWS).map(line))];
  if (sorted.length > ROWS) {
    parts.push(h("details", {}, h("summary", {}, `${sorted.length - ROWS} more`), table("The rest", columns, sorted.slice(ROWS).map(line))));
  }
  return parts;
}

function named(value, dimension) {
  if (!["vendor", "model", "app", "region"].includes(dimension) || value === "other" || value === "unknown") return value;
  return h("a", { href: link({ view: "drill", [dimension]: value, period: "1h" }, true) }, value);
}

// The largest ten of now have a colour of their own, the same in the table and in the picture.
function ofTheirOwn(newest, share) {
  const named = newest.filter((row) => row.value !== "other" && row.value !== "unknown");
  return [...named.sort((a, b) => b[share] - a[share]).slice(0, 10).map((row) => row.value), "other", "unknown"];
}

function grouped(rows, newest, share) {
  const own = new Set(ofTheirOwn(newest, share));
  const sums = new Map();
  for (const row of rows) {
    const value = own.has(row.value) ? row.value : "other";
    const key = `${row.window_end}\n${value}`;
    const sum = sums.get(key) ?? { window_end: row.window_end, value, share: 0 };
    sum.share += row[share] ?? 0;
    sums.set(key, sum);
  }
  return [...sums.values()];
}
