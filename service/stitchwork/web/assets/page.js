// The page: its views, the key, and the theme.

import { ApiError, forgetKey, storedKey, storeKey } from "./api.js";
import { clear, redraw } from "./charts.js";
import { overview } from "./overview.js";
import { spaces } from "./spaces.js";

const VIEWS = { "#overview": overview, "#spaces": spaces };
const byId = (id) => document.getElementById(id);
let controller = new AbortController();

function report(text, isError = false) {
  const message = byId("message");
  if (message.textContent !== text) message.textContent = text;
  message.classList.toggle("error", isError);
}

function fail(error) {
  if (error.name === "AbortError") return;
  const needsKey = error instanceof ApiError && [401, 403].includes(error.status);
  byId("key-form").hidden = !needsKey;
  if (needsKey) {
    byId("view").replaceChildren();
    report(storedKey() ? error.message : "Enter a key with the scope read.", Boolean(storedKey()));
    byId("key").focus();
  } else {
    report(error.message, true);
    if (!(error instanceof ApiError)) throw error;
  }
}

function show() {
  controller.abort();
  controller = new AbortController();
  clear();
  const name = VIEWS[location.hash] ? location.hash : "#overview";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("forget-key").hidden = !storedKey();
  byId("view").replaceChildren();
  report("Loading…");
  const { signal } = controller;
  const context = {
    signal,
    report: (text) => signal.aborted || report(text),
    fail: (error) => signal.aborted || fail(error),
  };
  VIEWS[name](byId("view"), context).then(() => context.report(""), context.fail);
}

function showTheme() {
  const button = byId("theme");
  const isDark = document.documentElement.dataset.theme === "dark";
  button.setAttribute("aria-pressed", isDark);
}

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  showTheme();
  redraw();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  storeKey(byId("key").value.trim());
  byId("key").value = "";
  byId("key-form").hidden = true;
  show();
});
byId("forget-key").addEventListener("click", () => {
  forgetKey();
  show();
});
addEventListener("hashchange", () => {
  show();
  byId("main").focus();
});
showTheme();
show();
