// Questions to the server. A failure is always thrown as a Failure with a text for people.

const WAIT_MS = 30_000;

export class Failure extends Error {
  constructor(message, kind) {
    super(message);
    this.kind = kind;
  }
}

async function fetched(url, signal) {
  let response;
  try {
    response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(WAIT_MS)]) });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Failure(error.name === "TimeoutError" ? "No answer within 30 seconds." : "The dashboard's server does not answer.", "page");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Failure(content.error ?? `HTTP ${response.status}`, content.kind ?? "page");
  return content;
}

export async function ask(question, parameters, signal) {
  const query = new URLSearchParams(parameters);
  const answer = await fetched(`/api/ask/${question}?${query}`, signal);
  const rows = answer.rows.map((row) => Object.fromEntries(answer.columns.map((name, at) => [name, row[at]])));
  return { ...answer, rows };
}

export async function annotations(from_day, to_day, signal) {
  return (await fetched(`/api/annotations?${new URLSearchParams({ from_day, to_day })}`, signal)).annotations;
}
