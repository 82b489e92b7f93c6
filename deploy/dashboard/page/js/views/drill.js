// From a vendor to its models, their apps and regions: single requests, counted anew.

import { ask } from "../ask.js";
import { DIMENSIONS, choosePeriod, measure, period } from "../controls.js";
import { h, table } from "../dom.js";
import { MEASURES, amount, count, percent } from "../format.js";
import { panel } from "../panel.js";
import { link } from "../state.js";

const PATH = ["vendor", "model", "app", "region"];
const BESIDE = ["provider", "country", "category"];
const TITLES = { provider: "Providers", country: "Callers' countries", category: "Categories (sampled)", vendor: "Vendors", model: "Models", app: "Apps", region: "Regions" };

export async function drill(state, place, signal) {
  const measured = MEASURES[state.measure] ? state.measure : "tokens";
  const within = period(state, { otherwise: "1h" });
  const chosen = Object.fromEntries(PATH.filter((name) => state[name]).map((name) => [name, state[name]]));
  const open = PATH.filter((name) => !chosen[name]);
  place.append(
    h("h1", {}, "Drill down"),
    h("p", { class: "lead" }, "Vendor, model, app, region: choose a row to look inside it. Counted from single requests, so keep the period short when there is much traffic."),
    crumbs(chosen),
    h("div", { class: "controls" }, measure(measured), choosePeriod(state, { otherwise: "1h", longest: "28d" })));
  const panels = h("div", { class: "panels" });
  place.append(panels);
  const shown = [...open, ...BESIDE].map((next) => ({ next, panel: panel(TITLES[next]) }));
  panels.append(...shown.map((each) => each.panel.element));
  // One after the other: the first is what was asked for, and each reads the same requests.
  for (const each of shown) {
    try {
      const answer = await ask("drill", { next: each.next, from_time: within.from, to_time: within.to, ...chosen }, signal);
      if (!answer.rows.length) each.panel.empty([answer], "No such requests in this period.");
      else each.panel.fill([answer], rowsOf(answer.rows, each.next, measured));
    } catch (error) {
      if (signal.aborted) return;
      each.panel.fail(error);
    }
  }
}

function crumbs(chosen) {
  const names = Object.keys(chosen);
  const cleared = Object.fromEntries(PATH.map((name) => [name, ""]));
  return h("ol", { class: "crumbs", "aria-label": "What is looked at" },
    h("li", {}, h("a", { href: link(cleared) }, "All traffic")),
    names.map((name) => h("li", {}, `${DIMENSIONS[name]}: ${chosen[name]} `, h("a", { href: link({ [name]: "" }), "aria-label": `Remove ${name}` }, "×"))));
}

function rowsOf(rows, next, measured) {
  const { share } = MEASURES[measured];
  const sorted = [...rows].sort((a, b) => (b[share] ?? 0) - (a[share] ?? 0));
  return table(`Part of ${MEASURES[measured].title}${rows.length === 100 ? "; the largest 100" : ""}`, [DIMENSIONS[next], "part", MEASURES[measured].title, "users", "errors"],
    sorted.slice(0, 30).map((row) => h("tr", {},
      h("td", { class: "name", title: row.value }, PATH.includes(next) && row.value ? h("a", { href: link({ [next]: row.value }) }, row.value) : row.value),
      h("td", { class: "share", style: { "--part": `${(row[share] ?? 0) * 100}%` } }, percent(row[share], 2)),
      h("td", {}, MEASURES[measured].text(amount(measured, row))),
      h("td", {}, count(row.users)),
      h("td", {}, percent(row.requests ? row.errors / row.requests : null)))));
}
