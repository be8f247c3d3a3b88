// The page: its views, the key, and the theme.

import { ApiError, forgetKey, storedKey, storeKey } from "./api.js";
import { clear, redraw } from "./charts.js";
import { evaluate } from "./evaluate.js";
import { moves } from "./moves.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";
import { registration } from "./registration.js";
import { SampleError } from "./samples.js";
import { spaces } from "./spaces.js";

const VIEWS = {
  "#overview": overview, "#spaces": spaces, "#playground": playground, "#evaluate": evaluate, "#registration": registration, "#moves": moves,
};
const byId = (id) => document.getElementById(id);
let controller = new AbortController();

const message = byId("message");

/** Show messages below a node, such as a form whose button was pressed; without one, above the view. */
function place(node = null) {
  if (node) node.append(message);
  else byId("main").prepend(message);
}

function report(text, isError = false) {
  // A view may have removed the form that it was in.
  if (!message.isConnected) place();
  if (message.textContent !== text) message.textContent = text;
  message.classList.toggle("error", isError);
  if (isError && byId("view").contains(message)) message.focus();
}

const isRefused = (error) => error instanceof ApiError && [401, 403].includes(error.status);

function fail(error) {
  if (error.name === "AbortError") return;
  const needsKey = isRefused(error);
  byId("key-form").hidden = !needsKey;
  if (needsKey) {
    place();
    report(storedKey() ? error.message : "Enter a key with the scope read.", Boolean(storedKey()));
    byId("key").focus();
  } else {
    report(error.message, true);
    if (!(error instanceof ApiError || error instanceof SampleError)) throw error;
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
  place();
  byId("view").replaceChildren();
  report("Loading…");
  const { signal } = controller;
  const context = {
    signal,
    place: (node) => signal.aborted || place(node),
    report: (text) => signal.aborted || report(text),
    fail: (error) => signal.aborted || fail(error),
  };
  VIEWS[name](byId("view"), context).then(() => context.report(""), (error) => {
    if (!signal.aborted && isRefused(error)) byId("view").replaceChildren();
    context.fail(error);
  });
}

function showTheme() {
  const button = byId("theme");
  const isDark = document.documentElement.dataset.theme === "dark";
  button.textContent = isDark ? "Light" : "Dark";
  button.title = `Change to the ${isDark ? "light" : "dark"} theme`;
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
  // What the key has opened goes with it.
  location.reload();
});
addEventListener("hashchange", () => {
  show();
  byId("main").focus();
});
showTheme();
show();
