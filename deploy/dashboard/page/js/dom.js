// Elements from code. Text is always set as text, so nothing from the data can become markup.

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined));
  return element;
}

export function table(caption, columns, rows, attributes = {}) {
  const head = h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)));
  return h("div", { class: "scroll" },
    h("table", attributes, h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, rows)));
}
