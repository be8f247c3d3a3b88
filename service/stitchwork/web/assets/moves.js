// Moves of vector stores, as the commands that run them report them.

import { ApiError, getJson, pause } from "./api.js";
import { element, number, refresh, section, table, warnings } from "./dom.js";

const SECONDS = 3;
const PAGE = 100;
const MAX = 1000;

export async function moves(view, { signal, report }) {
  const running = element("div", { id: "running-moves" });
  const past = element("div", { id: "past-moves" });
  let limit = PAGE;
  let wake = () => {};
  const older = element("button", { type: "button", hidden: true, onclick: () => {
    limit = Math.min(MAX, limit + PAGE);
    wake();
  } }, "Show older moves");
  view.append(element("h1", {}, "Moves"),
    element("p", {}, element("code", {}, "stitchwork migrate"), " translates a store of vectors into the space of another encoder, in a process of its user, and reports here how far it is. An interrupted move goes on when the same command is run again. ",
      element("code", {}, "stitchwork assess --moved"), " adds the action to take and the recall."),
    section("Running", {}, running), section("Past", {}, past, older));
  for (;;) {
    try {
      const { items, cursor, unreadable } = await getJson(`moves?${new URLSearchParams({ limit })}`, signal);
      const isRunning = ({ status }) => status === "running";
      const current = items.filter(isRunning);
      refresh(running, current, () => table("Running moves", ["Store", "Progress", "Rows per second", "Time left", "Rows"],
        current.map(runningRow), "No move is running."));
      const ended = items.filter((move) => !isRunning(move));
      refresh(past, ended, () => table("Past moves, the latest first", ["Store", "State", "Rows", "Recall@10", "Action"],
        ended.map(pastRow), "No move has ended."));
      older.hidden = !cursor || limit === MAX;
      report(unreadable ? `${unreadable.length} moves were stored by another release and are not shown.` : "");
    } catch (error) {
      if (!(error instanceof ApiError) || [401, 403].includes(error.status)) throw error;
      report(`${error.message} The states are those of a moment ago.`);
    }
    await Promise.race([pause(SECONDS, signal), new Promise((resolve) => { wake = resolve; })]);
  }
}

function runningRow(move) {
  const { rows, total, rows_per_second: rate } = move;
  const share = total ? ` (${number(Math.floor((1000 * rows) / total) / 10, 1)}%)` : "";
  return [store(move),
    element("span", {}, `${number(rows)} of ${number(total)}${share}`, element("progress", { max: total || 1, value: rows, "aria-label": `Progress of ${move.source} to ${move.target}` })),
    number(rate, 0), rate ? duration((total - rows) / rate) : "–", counts(move)];
}

const pastRow = (move) => [store(move), state(move), counts(move), recall(move.assessment), action(move.assessment)];

function store({ source, target, versions, shard, engine }) {
  const notes = [`${versions.source} → ${versions.target}`, versions.bridge, shard && `shard ${shard}`, engine === "ray" && "by Ray"];
  return element("span", {}, `${source} → ${target}`, element("p", { class: "hint" }, notes.filter(Boolean).join(", ")));
}

function state(move) {
  const { status, reason, updated } = move;
  const time = element("time", { datetime: updated }, new Date(updated).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }));
  return element("span", {}, element("span", { class: status === "failed" ? "bad" : null }, reason ? `${status}: ${reason}` : status),
    element("p", { class: "hint" }, time), warnings(move.warnings));
}

/** Rows that were written, left out or embedded anew, with the reasons, and those that are doubtful. */
function counts({ status, total, written, rejected, re_embedded: embedded, uncovered, mismatched, reasons }) {
  const others = [
    [rejected, "left out"], [embedded, "embedded anew"], [uncovered, "not covered by the anchors"], [mismatched, "of other lengths than the anchors"],
  ].filter(([count]) => count).map(([count, text]) => `${number(count)} ${text}`);
  const kinds = Object.entries(reasons).map(([reason, count]) => `${number(count)}: ${reason}`);
  const rest = ["failed", "interrupted"].includes(status) ? ` of ${number(total)}` : "";
  return element("span", {}, [`${number(written)} written${rest}`, ...others].join(", "), list("Reasons", kinds));
}

function recall(assessment) {
  const lines = [["before", "queries"], ["after", "store"]].map(([when, name]) => [when, assessment?.[`recall_at_10_translated_${name}`], assessment?.[`recall_at_10_translated_${name}_interval`]])
    .filter(([, value]) => value != null)
    .map(([when, value, interval]) => `${when} ${number(value, 3)}${interval ? ` (${number(interval[0], 3)} to ${number(interval[1], 3)})` : ""}`);
  return lines.length ? element("span", {}, lines.map((line) => element("div", {}, line))) : "–";
}

const action = (assessment) => (assessment?.action ? element("span", {}, element("strong", {}, assessment.action), list("Reasons", assessment.reasons)) : "–");

/** Sentences that are shown on request. */
function list(title, texts) {
  return texts.length ? element("details", {}, element("summary", {}, title), element("ul", {}, texts.map((text) => element("li", {}, text)))) : null;
}

/** A time for people, such as 3.2 hours. */
function duration(seconds) {
  for (const [unit, name] of [[86400, "days"], [3600, "hours"], [60, "minutes"]]) if (seconds >= unit) return `${number(seconds / unit, 1)} ${name}`;
  return `${number(Math.ceil(seconds), 0)} seconds`;
}
