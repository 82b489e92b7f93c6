// The page: which view, how fresh the data is, light or dark.

import { ask } from "./ask.js";
import { closeAll, redrawAll } from "./charts.js";
import { h } from "./dom.js";
import { clock, duration, percent } from "./format.js";
import { link, onChange, state } from "./state.js";
import { alerts } from "./views/alerts.js";
import { compare } from "./views/compare.js";
import { drill } from "./views/drill.js";
import { live } from "./views/live.js";
import { prices } from "./views/prices.js";
import { retention } from "./views/retention.js";
import { trends } from "./views/trends.js";

const VIEWS = {
  live: ["Live", live], trends: ["Trends", trends], compare: ["Compare", compare], drill: ["Drill down", drill],
  alerts: ["Alerts", alerts], retention: ["Retention", retention], prices: ["Prices", prices],
};
const FRESHNESS_MS = 2000;
const LAGGING_SECONDS = 180;

const main = document.getElementById("main");
let leaving = new AbortController();

function show() {
  leaving.abort();
  leaving = new AbortController();
  closeAll();
  const now = state();
  const name = VIEWS[now.view] ? now.view : "live";
  // What is measured and by what stays from view to view; what belongs to one does not.
  document.getElementById("views").replaceChildren(...Object.entries(VIEWS).map(([each, [title]]) =>
    h("a", { href: link({ view: each, by: now.by, measure: now.measure }, true), "aria-current": each === name ? "page" : null }, title)));
  document.title = `${VIEWS[name][0]} · tokentide`;
  main.replaceChildren();
  VIEWS[name][1](now, main, leaving.signal);
}

async function watchFreshness() {
  const line = document.getElementById("freshness");
  while (true) {
    try {
      const answer = await ask("freshness", {}, new AbortController().signal);
      freshness(line, answer);
    } catch (error) {
      line.className = "broken";
      line.textContent = `${error.message} What is shown may be old.`;
    }
    await new Promise((done) => setTimeout(done, FRESHNESS_MS));
  }
}

function freshness(line, answer) {
  const [row] = answer.rows;
  if (!row.newest_event) {
    line.className = "";
    line.textContent = "No events yet. Publish to topic llm-usage-v1, or try: tokentide simulate --rate 200";
    return;
  }
  const behind = Math.max(0, (row.asked_at - row.newest_event) / 1000);
  if (!row.complete_to) {
    line.className = "";
    line.replaceChildren("Newest event ", h("b", {}, clock(row.newest_event)), " UTC. No window has been given out yet.");
    return;
  }
  const gap = Math.max(0, (row.asked_at - row.complete_to) / 1000);
  line.className = gap > LAGGING_SECONDS || !row.is_complete ? "lagging" : "";
  line.replaceChildren(
    "Complete to ", h("b", {}, clock(row.complete_to)), ` UTC${gap > 86400 ? `, ${duration(gap)} ago` : ""}`,
    row.requests_10m ? h("span", {}, " · ", h("b", {}, percent(row.late_10m / row.requests_10m, 2)), " late") : "",
    " · newest event ", h("b", {}, `${behind < 10 ? behind.toFixed(1) : ""}${behind < 10 ? " s" : duration(behind)}`), " old",
    row.is_complete ? "" : " · a partition is missing: windows will be revised",
    gap > LAGGING_SECONDS ? ` · windows are ${duration(gap)} behind: no traffic, or the worker lags` : "");
}

function theme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = chosen;
    button.textContent = chosen === "dark" ? "☀" : "☾";
    button.setAttribute("aria-label", chosen === "dark" ? "Use light colours" : "Use dark colours");
    redrawAll();
  };
  button.addEventListener("click", () => {
    localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

theme();
onChange(show);
show();
watchFreshness();
