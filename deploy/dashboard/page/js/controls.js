// Controls whose value lives in the address.

import { h } from "./dom.js";
import { go } from "./state.js";

export const DIMENSIONS = {
  vendor: "Vendor", model: "Model", provider: "Provider (host)", origin: "Open or closed", country: "Country of the vendor",
  license: "Licence", size_class: "Size", reasoning: "Reasoning", app: "App", region: "Region", category: "Category",
  tool_use: "Tool use", finish_reason: "Finish reason", vendor_region: "Vendor and region",
};
export const LIVE = Object.keys(DIMENSIONS).filter((name) => name !== "finish_reason");
export const TRENDS = Object.keys(DIMENSIONS).filter((name) => name !== "vendor_region");
const BY_HOUR = new Set(["app", "region", "category", "finish_reason", "tool_use"]);

const PERIODS = { "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800, "28d": 2419200, "90d": 7776000, "365d": 31536000 };
export const PERIOD_TITLES = { "1h": "Last hour", "6h": "Last 6 hours", "24h": "Last 24 hours", "7d": "Last 7 days", "28d": "Last 28 days", "90d": "Last 90 days", "365d": "Last 365 days" };
const WEEKS_FROM_SECONDS = 40 * 86400;

export function choose(title, name, options, current) {
  const select = h("select", { onchange: () => go({ [name]: select.value }) },
    Object.entries(options).map(([value, text]) => h("option", { value, selected: value === current }, text)));
  return h("label", {}, title, select);
}

export function pick(names) {
  return Object.fromEntries(names.map((name) => [name, DIMENSIONS[name]]));
}

export function measure(current, more = {}) {
  return choose("Measure", "measure", { tokens: "Tokens", requests: "Requests", spend: "Spend", ...more }, current);
}

// A period from the address: {from, to} in seconds, as chosen or up to now.
export function period(state, { name = "period", from = "from", to = "to", otherwise = "24h" } = {}) {
  if (state[from] && state[to]) {
    return { from: Date.parse(`${state[from]}Z`) / 1000, to: Date.parse(`${state[to]}Z`) / 1000, chosen: true };
  }
  const seconds = PERIODS[state[name]] ?? PERIODS[otherwise];
  // Whole minutes, so that everybody who looks within one asks the same question.
  const now = Math.floor(Date.now() / 60000) * 60 + 60;
  return { from: now - seconds, to: now, chosen: false };
}

export function choosePeriod(state, { otherwise = "24h", longest = "365d" } = {}) {
  const names = Object.keys(PERIODS);
  const shown = names.slice(0, names.indexOf(longest) + 1);
  const chosen = period(state, { otherwise });
  const options = Object.fromEntries(shown.map((name) => [name, PERIOD_TITLES[name]]));
  const current = chosen.chosen ? "" : state.period ?? otherwise;
  const select = h("select", { onchange: () => select.value && go({ period: select.value, from: "", to: "" }) },
    chosen.chosen ? h("option", { value: "", selected: true }, "Chosen") : null,
    Object.entries(options).map(([value, text]) => h("option", { value, selected: value === current }, text)));
  return [h("label", {}, "Period", select), ...chooseTimes(chosen)];
}

// Two fields for the ends of a period; the address changes once both are there and in order.
export function chooseTimes(chosen, { from = "from", to = "to", titles = ["From, UTC", "To, UTC"] } = {}) {
  const fields = [chosen.from, chosen.to].map((seconds) => h("input", { type: "datetime-local", step: 60, value: new Date(seconds * 1000).toISOString().slice(0, 16) }));
  const changed = () => {
    const [start, end] = fields.map((field) => field.value);
    fields[1].setCustomValidity(start && end && start >= end ? "The end must be after the beginning." : "");
    if (fields[1].reportValidity() && start && end) go({ [from]: start, [to]: end });
  };
  fields.forEach((field) => field.addEventListener("change", changed));
  return fields.map((field, at) => h("label", {}, titles[at], field));
}

// How a trend over a period is asked: by buckets of a rollup, or by weeks for long ones.
export function trendQuestion(by, { from, to }) {
  const seconds = to - from;
  if (seconds > WEEKS_FROM_SECONDS) {
    return { question: "trend_weeks", parameters: { weekly: by, ...days({ from, to }) }, time: "week", grain: "week" };
  }
  const grains = BY_HOUR.has(by) ? [3600, 21600, 86400] : [60, 300, 900, 3600, 21600, 86400];
  const grain = grains.find((each) => seconds / each <= 200) ?? grains.at(-1);
  return { question: "trend", parameters: { by, from_time: from, to_time: to, grain_seconds: grain }, time: "bucket_start", grain };
}

export function days({ from, to }) {
  const text = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
  return { from_day: text(from), to_day: text(to + 86399) };
}
