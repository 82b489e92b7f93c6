// Alerts on sudden changes of share: what, since when, and why.

import { ask } from "../ask.js";
import { DIMENSIONS } from "../controls.js";
import { h, table } from "../dom.js";
import { moment, percent, points } from "../format.js";
import { panel } from "../panel.js";
import { link } from "../state.js";

const POLL_MS = 5000;

export function alerts(state, place, signal) {
  const list = panel("Alerts", { note: "Suppressed ones, which another alert explains, are in table share_alerts." });
  const one = panel("Why");
  place.append(h("h1", {}, "Alerts"), h("p", { class: "lead" }, "Sudden changes of share that noise, seasons and single accounts do not explain."),
    h("div", { class: "panels" }, list.element, one.element));
  let shown = "";

  async function poll() {
    try {
      const answer = await ask("alerts", {}, signal);
      const chosen = state.alert ?? answer.rows[0]?.alert_id;
      if (!answer.rows.length) list.empty([answer], "No alert so far. The detector judges every five minutes of traffic, after a day of history.");
      else list.fill([answer], answer.rows.map((row) => item(row, row.alert_id === chosen)));
      if (!chosen) { one.empty([], "Nothing to explain."); return; }
      const version = `${chosen}/${answer.rows.find((row) => row.alert_id === chosen)?.at}`;
      if (version === shown) return;
      const detail = await ask("alert", { alert_id: chosen }, signal);
      if (!detail.rows.length) { one.empty([detail], "There is no such alert."); return; }
      one.fill([detail], explained(chosen, detail.rows));
      shown = version;
    } catch (error) {
      if (signal.aborted) return;
      list.fail(error);
      if (!shown) one.fail(error);
    }
  }

  (async () => {
    while (!signal.aborted) {
      if (!document.hidden) await poll();
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  })();
}

function item(row, current) {
  return h("div", { class: `alert ${row.state}`, "aria-current": current ? "true" : null },
    h("p", {}, h("span", { class: "tag" }, row.state), h("span", { class: "quiet" }, `${moment(row.since)} UTC`)),
    h("p", {}, h("a", { href: link({ alert: row.alert_id }) }, row.sentence)));
}

function explained(alertId, transitions) {
  const first = transitions[0];
  const why = JSON.parse(transitions.findLast((row) => row.explanation && row.explanation !== "null")?.explanation ?? "null");
  const parts = [
    h("p", {}, h("b", {}, transitions.at(-1).sentence)),
    h("img", { class: "evidence", src: `/api/alerts/${alertId}/evidence.svg`, alt: `Evidence: ${first.sentence}`, loading: "lazy" }),
    table("What happened", ["state", "at, UTC", "from", "to", "95 % interval"], transitions.map((row) => h("tr", {},
      h("td", {}, row.state), h("td", {}, moment(row.at)), h("td", {}, percent(row.share_before)), h("td", {}, percent(row.share_after)),
      h("td", {}, row.share_low === null ? "–" : `${percent(row.share_low)} to ${percent(row.share_high)}`)))),
  ];
  if (why === null) parts.push(h("p", { class: "notice" }, "What drove it could not be found out at the time."));
  for (const breakdown of why?.breakdowns ?? []) {
    const rows = breakdown.contributions.slice(0, 8);
    if (!rows.length) continue;
    const most = Math.max(...rows.map((row) => Math.abs(row.contribution)), 1e-12);
    parts.push(h("h2", {}, `By ${(DIMENSIONS[breakdown.dimension] ?? breakdown.dimension).toLowerCase()}`), rows.map((row) => h("div", { class: "contribution" },
      h("span", { title: row.value }, row.value || "–"),
      h("span", { class: "meter", style: { width: `${(Math.abs(row.contribution) / most) * 100}%` } }),
      h("span", { class: row.contribution > 0 ? "up" : "down" }, `${points(row.contribution)} points`))));
  }
  return parts;
}
