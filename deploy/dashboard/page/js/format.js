// Numbers and times as a person reads them. All times are UTC.

const WORDS = [[1e15, "quadrillion"], [1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

export const NOTHING = "–";

export function count(value) {
  if (value === null || value === undefined) return NOTHING;
  for (const [size, word] of WORDS) {
    if (Math.abs(value) >= size) return `${trimmed(value / size)} ${word}`;
  }
  return Number.isInteger(value) ? String(value) : trimmed(value);
}

function trimmed(value) {
  return value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
}

export function usd(value) {
  if (value === null || value === undefined) return NOTHING;
  return value >= 1000 ? `$${count(value)}` : `$${value.toFixed(value >= 1 ? 2 : 4)}`;
}

export function percent(share, digits = 1) {
  if (share === null || share === undefined) return NOTHING;
  const value = share * 100;
  if (value > 0 && value < 0.05 && digits === 1) return "<0.1 %";
  return `${value.toFixed(digits)} %`;
}

export function points(change) {
  if (change === null || change === undefined) return NOTHING;
  const value = change * 100;
  if (Math.abs(value) < 0.005) return "0";
  return `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
}

export function clock(ms) {
  return new Date(ms).toISOString().slice(11, 19);
}

export function moment(ms) {
  return new Date(ms).toISOString().slice(0, 16).replace("T", " ");
}

export function day(ms) {
  return new Date(ms).toISOString().slice(0, 10);
}

export function duration(seconds) {
  if (seconds >= 3600 && seconds % 3600 === 0 && seconds < 86400) return `${seconds / 3600} h`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 86400 ? `${Math.round(seconds / 3600)} h` : Math.round(seconds / 86400) === 1 ? "1 day" : `${Math.round(seconds / 86400)} days`;
}

export const MEASURES = {
  tokens: { title: "tokens", share: "token_share", change: "token_share_change", total: "tokens_total", text: count },
  requests: { title: "requests", share: "request_share", change: "request_share_change", total: "requests_total", text: count },
  spend: { title: "spend", column: "spend_usd", share: "spend_share", change: "spend_share_change", total: "spend_total_usd", text: usd },
};

export function amount(measure, row) {
  return row[MEASURES[measure].column ?? measure];
}
