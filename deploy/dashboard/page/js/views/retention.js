// Who stays with a model: cohorts by month of first use.

import { ask } from "../ask.js";
import { chart, overTime } from "../charts.js";
import { choosePeriod, days, period } from "../controls.js";
import { h, table } from "../dom.js";
import { count, percent } from "../format.js";
import { panel } from "../panel.js";
import { go } from "../state.js";

export async function retention(state, place, signal) {
  const within = period(state, { otherwise: "365d" });
  const controls = h("div", { class: "controls" });
  const curves = panel("Curves", { note: "A user counts in a month with any request to the model, after gaps too; so a curve may rise again." });
  const numbers = panel("Cohorts");
  place.append(h("h1", {}, "Retention"), h("p", { class: "lead" }, "Of the users whose first request to a model was in a month: how many are there months later."),
    controls, h("div", { class: "panels" }, curves.element, numbers.element));
  try {
    const models = await ask("models", days(within), signal);
    const model = state.model ?? models.rows[0]?.model;
    const select = h("select", { onchange: () => go({ model: select.value }) },
      [...new Set([model, ...models.rows.map((row) => row.model)].filter(Boolean))].map((name) => h("option", { value: name, selected: name === model }, name)));
    controls.append(h("label", {}, "Model", select), ...choosePeriod(state, { otherwise: "365d" }));
    if (!model) { curves.empty([models], "No requests in this period."); numbers.empty([models], "No cohorts."); return; }
    const answer = await ask("retention", { model, ...days(within) }, signal);
    if (!answer.rows.length) { curves.empty([answer], "No request to this model says who its user is."); numbers.empty([answer], "No cohorts."); return; }
    const later = Math.max(...answer.rows.map((row) => row.months_later));
    const picture = chart(`Retention of ${model}`);
    if (later > 0) {
      curves.fill([answer], picture.place);
      const drawn = overTime({ rows: answer.rows, time: "months_later", value: "cohort", y: "retention", stacked: false, max: 1 });
      picture.update(() => ({ ...monthly(drawn()) }), `Retention of ${model} by months since first use`);
    } else curves.empty([answer], "All of them began in one month: curves need a second one.");
    const cohorts = [...new Set(answer.rows.map((row) => row.cohort))];
    const cell = (row) => row ? h("td", { style: { background: `color-mix(in srgb, var(--accent) ${Math.round(row.retention * 70)}%, transparent)` }, title: `${count(row.active_users)} users${row.is_partial ? ", the month is not over" : ""}` }, percent(row.retention, 0), row.is_partial ? "*" : "") : h("td", { class: "quiet" }, "");
    numbers.fill([answer], table("Part of the cohort that is active; * the month is not over", ["first month", "users", ...Array.from({ length: later + 1 }, (_, at) => `+${at}`)],
      cohorts.map((cohort) => {
        const mine = answer.rows.filter((row) => row.cohort === cohort);
        return h("tr", {}, h("td", {}, cohort.slice(0, 7)), h("td", {}, count(mine[0].cohort_users)),
          Array.from({ length: later + 1 }, (_, at) => cell(mine.find((row) => row.months_later === at))));
      }), { class: "heat" }));
  } catch (error) {
    if (signal.aborted) return;
    curves.fail(error);
    numbers.fail(error);
  }
}

function monthly(options) {
  return {
    ...options,
    xAxis: { ...options.xAxis, type: "value", minInterval: 1, name: "months since first use", nameLocation: "middle", nameGap: 26 },
    grid: { left: 12, right: 18, top: 44, bottom: 28, containLabel: true },
    tooltip: { ...options.tooltip, formatter: (all) => all.map((point) => `${point.marker} ${point.seriesName.slice(0, 7)} +${point.value[0]}: <b>${percent(point.value[1])}</b>`).join("<br>") },
  };
}
