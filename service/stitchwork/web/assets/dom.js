// Elements. Text is always set as text, never parsed as HTML.

/** An element with attributes, and texts or elements in it. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

/** A table with a caption, the names of its columns, and rows of cells; the first cell is a header. */
export function table(caption, columns, rows, empty) {
  if (!rows.length) return element("p", {}, empty);
  const head = element("tr", {}, columns.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...cells]) =>
    element("tr", {}, element("th", { scope: "row" }, first),
      cells.map((cell) => element("td", {}, cell))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, caption), element("thead", {}, head),
      element("tbody", {}, body)));
}

const contents = new WeakMap();

/**
 * Show a table of what may have changed, with the same place scrolled to and the same focus.
 *
 * @param node
 * @param content What the table depends on; nothing changes while that is the same.
 * @param make The table.
 */
export function refresh(node, content, make) {
  const state = JSON.stringify(content);
  if (contents.get(node) === state) return;
  contents.set(node, state);
  const before = node.querySelector(".scroll");
  const hasFocus = before !== null && before === document.activeElement;
  const left = before?.scrollLeft ?? 0;
  node.replaceChildren(make());
  const after = node.querySelector(".scroll");
  if (after) after.scrollLeft = left;
  if (after && hasFocus) after.focus();
}

/** Names and values. */
export function facts(entries) {
  return element("dl", { class: "cards" }, entries.map(([name, value, id]) =>
    element("div", { class: "card" }, element("dt", {}, name),
      element("dd", { id, class: String(value).length > 20 ? "long" : null }, String(value)))));
}

/** A select element with a label. */
export function choice(label, id, options, value, onchange) {
  const select = element("select", { id, onchange: (event) => onchange(event.target.value) },
    options.map((option) => element("option", { value: option }, option)));
  select.value = value;
  return field(label, select);
}

/** A number for people. */
export function number(value, digits = 2) {
  const options = { maximumFractionDigits: digits, signDisplay: "negative" };
  return value == null ? "–" : value.toLocaleString("en", options);
}

/** A control with a label, and a hint below it. */
export function field(label, control, hint) {
  const id = control.id;
  if (!hint) return element("div", { class: "field" }, element("label", { for: id }, label), control);
  control.setAttribute("aria-describedby", `${id}-hint`);
  return element("div", { class: "field" }, element("label", { for: id }, label), control,
    element("p", { class: "hint", id: `${id}-hint` }, hint));
}

/** A box to check, with its label. */
export function checkbox(label, attributes) {
  return element("label", { class: "check" }, element("input", { type: "checkbox", ...attributes }), label);
}

/** A section with a heading. */
export function section(title, attributes, ...children) {
  return element("section", { "aria-label": title, ...attributes }, element("h2", {}, title), ...children);
}

/** Code to copy. */
export function code(title, id, text) {
  const button = element("button", { type: "button", "aria-label": `Copy ${title}`, onclick: async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } }, "Copy");
  // Browsers let pages copy only if these come by HTTPS or from this machine.
  return element("div", { class: "code" }, element("h3", {}, title), navigator.clipboard ? button : null,
    element("pre", { id, tabindex: "0", role: "region", "aria-label": title }, text));
}

/** Sentences that a reader must not miss. */
export function warnings(texts) {
  return texts.length ? element("ul", { class: "bad" }, texts.map((text) => element("li", {}, text))) : null;
}
