// What models cost in use, against how much they are used.

import { ask } from "../ask.js";
import { chart, priceMap } from "../charts.js";
import { choosePeriod, days, period } from "../controls.js";
import { h, table } from "../dom.js";
import { count, percent, usd } from "../format.js";
import { panel } from "../panel.js";

export async function prices(state, place, signal) {
  const within = days(period(state, { otherwise: "28d" }));
  const map = panel("Price and use of models", { wide: true, note: "What was paid per million tokens, caches counted; free models and those of which the cost is not known are left out. Dashed: the medians." });
  const slope = panel("Elasticity", { note: "An association between different models, not what a change of price would do." });
  const numbers = panel("Models");
  place.append(h("h1", {}, "Price map"), h("div", { class: "controls" }, choosePeriod(state, { otherwise: "28d" })),
    h("div", { class: "panels" }, map.element, slope.element, numbers.element));
  const picture = chart("Price and use");
  try {
    const answer = await ask("prices", within, signal);
    if (!answer.rows.length) { map.empty([answer], "No model with 30 priced requests in this period."); numbers.empty([answer], "No models."); slope.empty([answer], "No models."); return; }
    const points = answer.rows.map((row) => ({
      x: row.usd_per_million_tokens, y: row.tokens, name: row.model, group: row.origin,
      text: `${row.model}\n${usd(row.usd_per_million_tokens)} per million tokens\n${count(row.tokens)} tokens, ${usd(row.spend_usd)}\n${row.segment}`,
    }));
    map.fill([answer], picture.place);
    picture.update(priceMap({ points, medianX: answer.rows[0].median_usd_per_million_tokens, medianY: answer.rows[0].median_tokens, titleX: "USD per million tokens", titleY: "tokens" }),
      `${points.length} models by price and tokens, both logarithmic`);
    numbers.fill([answer], table("By tokens", ["model", "segment", "USD per 1M", "tokens", "spend"], answer.rows.slice(0, 40).map((row) => h("tr", {},
      h("td", { class: "name", title: row.model }, row.model), h("td", {}, row.segment), h("td", {}, usd(row.usd_per_million_tokens)), h("td", {}, count(row.tokens)), h("td", {}, usd(row.spend_usd))))));
    const steep = await ask("elasticity", within, signal);
    slope.fill([steep], table("Change of tokens, per cent, for 1 % of price", ["models of", "points", "elasticity", "95 % interval", "explained"], steep.rows.map((row) => h("tr", {},
      h("td", {}, row.origin), h("td", {}, count(row.models)), h("td", {}, row.elasticity?.toFixed(2) ?? "–"),
      h("td", {}, row.elasticity === null ? "–" : `${row.elasticity_low.toFixed(2)} to ${row.elasticity_high.toFixed(2)}`), h("td", {}, percent(row.r_squared, 0))))));
  } catch (error) {
    if (signal.aborted) return;
    map.fail(error);
    numbers.fail(error);
    slope.fail(error);
  }
}
