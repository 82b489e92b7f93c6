// Two periods side by side.

import { ask } from "../ask.js";
import { chart, dumbbells } from "../charts.js";
import { DIMENSIONS, TRENDS, choose, chooseTimes, measure, period, pick } from "../controls.js";
import { h, table } from "../dom.js";
import { MEASURES, moment, percent, points } from "../format.js";
import { panel } from "../panel.js";

const SHOWN = 15;

export async function compare(state, place, signal) {
  const by = TRENDS.includes(state.by) ? state.by : "vendor";
  const measured = MEASURES[state.measure] ? state.measure : "tokens";
  const after = period(state, { otherwise: "24h" });
  const length = after.to - after.from;
  const before = period(state, { name: "", from: "before_from", to: "before_to" });
  if (!before.chosen) Object.assign(before, { from: after.from - length, to: after.from });
  const { share } = MEASURES[measured];
  const moved = panel("Largest values", { wide: true });
  const numbers = panel("What moved most", { wide: true });
  const picture = chart("Shares before and after");
  place.append(
    h("h1", {}, "Compare two periods"),
    h("div", { class: "controls" },
      choose("Share of", "by", pick(TRENDS), by), measure(measured),
      choose("Of lately", "period", { "1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "28d": "Last 28 days" }, after.chosen ? "" : state.period ?? "24h"),
      chooseTimes(before, { from: "before_from", to: "before_to", titles: ["Before, from (UTC)", "Before, to (UTC)"] }),
      chooseTimes(after, { titles: ["After, from (UTC)", "After, to (UTC)"] })),
    h("div", { class: "panels" }, moved.element, numbers.element));
  try {
    const answer = await ask("compare", { by, from_time: before.from, to_time: before.to, from_time_after: after.from, to_time_after: after.to }, signal);
    const sum = (which) => answer.rows.reduce((total, row) => total + (row[`requests_${which}`] ?? 0), 0);
    if (!sum("before") || !sum("after")) {
      const missing = sum("before") ? "later" : "earlier";
      moved.empty([answer], `No requests in the ${missing} period, so there is nothing to compare.`);
      numbers.empty([answer], "Nothing to compare.");
      return;
    }
    const titles = [`${moment(before.from * 1000)} – ${moment(before.to * 1000)}`, `${moment(after.from * 1000)} – ${moment(after.to * 1000)}`];
    const old = `${share}_before`;
    const fresh = `${share}_after`;
    const rows = answer.rows.map((row) => ({ ...row, change: (row[fresh] ?? 0) - (row[old] ?? 0) }));
    const largest = [...rows].sort((a, b) => Math.max(b[old] ?? 0, b[fresh] ?? 0) - Math.max(a[old] ?? 0, a[fresh] ?? 0)).slice(0, SHOWN);
    moved.fill([answer], picture.place);
    picture.update(dumbbells({ rows: largest, before: old, after: fresh, titles }), `${DIMENSIONS[by]}: shares of ${titles[0]} and ${titles[1]}`);
    const sorted = [...rows].sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 40);
    const name = MEASURES[measured].column ?? measured;
    numbers.fill([answer], table(`Shares of ${MEASURES[measured].title}; change in percentage points`, [DIMENSIONS[by], "before", "after", "points", `${MEASURES[measured].title} before`, "after"],
      sorted.map((row) => h("tr", {},
        h("td", { class: "name", title: row.value }, row.value), h("td", {}, percent(row[old], 2)), h("td", {}, percent(row[fresh], 2)),
        h("td", { class: row.change > 0 ? "up" : "down" }, points(row.change)),
        h("td", {}, MEASURES[measured].text(row[`${name}_before`])), h("td", {}, MEASURES[measured].text(row[`${name}_after`]))))));
  } catch (error) {
    if (signal.aborted) return;
    moved.fail(error);
    numbers.fail(error);
  }
}
