// The address holds the whole state: a link shows the same page to somebody else.

const listeners = new Set();

export function state() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

export function link(changes, fresh = false) {
  const next = new URLSearchParams(fresh ? "" : location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") next.delete(name);
    else next.set(name, value);
  }
  return `?${next}`;
}

export function go(changes) {
  history.pushState(null, "", link(changes));
  listeners.forEach((listener) => listener());
}

export function onChange(listener) {
  listeners.add(listener);
  addEventListener("popstate", listener);
}

// Links within the page change the state without loading it again.
document.addEventListener("click", (event) => {
  const anchor = event.target.closest("a[href^='?']");
  if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  history.pushState(null, "", anchor.getAttribute("href"));
  listeners.forEach((listener) => listener());
});
