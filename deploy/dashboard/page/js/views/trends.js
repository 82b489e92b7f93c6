// Shares or volumes over any period, with releases and changes of price.

import { annotations, ask } from "../ask.js";
import { chart, overTime } from "../charts.js";
import { DIMENSIONS, TRENDS, choose, choosePeriod, days, measure, period, pick, trendQuestion } from "../controls.js";
import { h, table } from "../dom.js";
import { MEASURES, amount, duration, moment, percent } from "../format.js";
import { panel } from "../panel.js";
import { link } from "../state.js";

export async function trends(state, place, signal) {
  const by = TRENDS.includes(state.by) ? state.by : "vendor";
  const measured = MEASURES[state.measure] ? state.measure : "tokens";
  const as = state.as ?? "share";
  const within = period(state);
  const asked = trendQuestion(by, within);
  const main = panel(`${DIMENSIONS[by]} by ${MEASURES[measured].title}`, { wide: true });
  const numbers = panel("The whole period");
  const events = panel("Releases and prices", { note: "From the catalogue that ships with tokentide, of the models used most in the period." });
  const picture = chart("Trend");
  place.append(
    h("h1", {}, "Trends"),
    h("div", { class: "controls" },
      choose("Share of", "by", pick(TRENDS), by), measure(measured),
      choose("Show", "as", { share: "Shares", volume: "Volumes", lines: "Shares as lines" }, as), choosePeriod(state)),
    h("div", { class: "panels" }, main.element, numbers.element, events.element));

  const named = annotations(...Object.values(days(within)), signal).catch((error) => error);
  try {
    const answer = await ask(asked.question, asked.parameters, signal);
    if (!answer.rows.length) {
      main.empty([answer], "No requests in this period.");
      numbers.empty([answer], "Nothing to sum up.");
    } else {
      const rows = answer.rows.map((row) => ({ ...row, at: typeof row[asked.time] === "number" ? row[asked.time] : Date.parse(`${row[asked.time]}T00:00:00Z`) }));
      main.fill([answer], partial(rows, asked, within), picture.place);
      const draw = (marks) => picture.update(overTime({
        rows, time: "at", value: "value", marks,
        y: as === "volume" ? (MEASURES[measured].column ?? measured) : MEASURES[measured].share,
        text: as === "volume" ? MEASURES[measured].text : percent,
        stacked: as !== "lines", max: as === "share" ? 1 : null,
      }), `${DIMENSIONS[by]} from ${moment(within.from * 1000)} to ${moment(within.to * 1000)} UTC`);
      draw([]);
      numbers.fill([answer], sums(rows, by, measured));
      const marks = await named;
      if (Array.isArray(marks)) draw(marks.filter((mark) => mark.kind === "release").map((mark) => ({ at: Date.parse(`${mark.day}T00:00:00Z`), name: mark.model.split("/").at(-1), text: `${mark.day}: ${mark.text}` })));
    }
  } catch (error) {
    if (signal.aborted) return;
    main.fail(error);
    numbers.fail(error);
  }
  const marks = await named;
  if (signal.aborted) return;
  if (!Array.isArray(marks)) events.fail(marks);
  else if (!marks.length) events.empty([], "None in this period.");
  else events.fill([], h("ul", {}, marks.map((mark) => h("li", {}, `${mark.day} `, h("a", { href: link({ view: "drill", model: mark.model, from: state.from, to: state.to, period: state.period }, true) }, mark.text)))));
}

function partial(rows, asked, within) {
  const step = asked.grain === "week" ? "a week (Monday to Sunday, UTC)" : duration(asked.grain);
  const unfinished = within.to * 1000 > Date.now() ? "; the last point is still growing" : "";
  return h("p", { class: "note" }, `A point is ${step}${unfinished}.`);
}

function sums(rows, by, measured) {
  const all = new Map();
  let whole = 0;
  for (const row of rows) {
    const value = amount(measured, row) ?? 0;
    all.set(row.value, (all.get(row.value) ?? 0) + value);
    whole += value;
  }
  const sorted = [...all].sort((a, b) => b[1] - a[1]);
  return table(`${MEASURES[measured].title}, largest first`, [DIMENSIONS[by], "share", MEASURES[measured].title],
    sorted.map(([value, sum]) => h("tr", {},
      h("td", { class: "name", title: value }, value),
      h("td", { class: "share", style: { "--part": `${(sum / whole) * 100}%` } }, percent(whole ? sum / whole : null, 2)),
      h("td", {}, MEASURES[measured].text(sum)))));
}
