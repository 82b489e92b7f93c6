// A panel: a heading, its SQL, and one of four states: loading, empty, broken, or filled.

import { h } from "./dom.js";
import { clock } from "./format.js";

const HINTS = {
  unavailable: "ClickHouse does not answer. This panel asks again by itself.",
  refused: "ClickHouse refused the question. If tables are missing: tokentide migrate.",
  question: "The link asks for something that does not exist.",
  page: "This panel asks again by itself.",
};

export function panel(title, { wide = false, note = "" } = {}) {
  const body = h("div", { class: "body" });
  const warning = h("div", { role: "alert" });
  const button = h("button", { type: "button", hidden: true, "aria-label": `SQL behind: ${title}` }, "SQL");
  const heading = h("h2", {}, title);
  const element = h("section", { class: `panel${wide ? " wide" : ""}`, "aria-busy": "true", "aria-label": title },
    h("div", { class: "head" }, heading, button), warning, body, note ? h("p", { class: "note" }, note) : null);
  body.append(h("p", { class: "notice" }, "Asking ClickHouse …"));
  let filledAt = null;
  let asked = [];
  button.addEventListener("click", () => showSql(title, asked));

  return {
    element,
    body,
    title(text) { heading.textContent = text; },
    // What was filled before stays in sight when the next question fails, marked as old.
    fill(answers, ...children) {
      asked = answers.map((answer) => answer.sql);
      button.hidden = asked.length === 0;
      filledAt = Math.max(0, ...answers.map((answer) => answer.asked_at_ms));
      warning.replaceChildren();
      element.classList.remove("stale");
      element.setAttribute("aria-busy", "false");
      if (children.length) body.replaceChildren(...children.flat().filter(Boolean));
    },
    empty(answers, text, hint = "") {
      this.fill(answers, h("p", { class: "notice" }, text, hint ? h("br") : null, hint ? h("code", {}, hint) : null));
      filledAt = null;
    },
    fail(error) {
      element.setAttribute("aria-busy", "false");
      const notice = h("p", { class: "notice bad" }, h("b", {}, "This could not be asked. "), error.message, " ", HINTS[error.kind] ?? "");
      if (filledAt) {
        warning.replaceChildren(h("p", { class: "notice bad" }, `Not current: below is the answer of ${clock(filledAt)} UTC. ${error.message}`));
        element.classList.add("stale");
      } else {
        body.replaceChildren(notice);
      }
    },
  };
}

function showSql(title, asked) {
  const dialog = document.getElementById("sql");
  dialog.querySelector("h2").textContent = `The SQL behind: ${title}`;
  dialog.querySelector("code").textContent = asked.join(";\n\n");
  const copy = document.getElementById("sql-copy");
  copy.textContent = "Copy";
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(dialog.querySelector("code").textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(dialog.querySelector("code"));
      copy.textContent = "Selected: copy it";
    }
  };
  dialog.showModal();
}
