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
      element("code", {}, "stitchwork assess --moved"), " adds the verdict."),
    section("Running", {}, running), section("Past", {}, past, older));
  for (;;) {
    try {
      const { items, cursor, unreadable } = await getJson(`moves?${new URLSearchParams({ limit })}`, signal);
      const isRunning = ({ status }) => status === "running";
      const current = items.filter(isRunning);
      refresh(running, current, () => table("Running moves", ["Store", "Translation", "Progress", "Rows per second", "Time left", "Not translated"],
        current.map(runningRow), "No move is running."));
      const ended = items.filter((move) => !isRunning(move));
      refresh(past, ended, () => table("Past moves, the latest first", ["Store", "State", "Translation", "Rows", "Not translated", "Recall@10 before", "Recall@10 after", "Verdict", "Last report"],
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
  const name = `${move.source} to ${move.target}`;
  const share = total ? ` (${number(Math.floor((1000 * rows) / total) / 10, 1)}%)` : "";
  return [store(move), translation(move),
    element("span", {}, `${number(rows)} of ${number(total)}${share}`, element("progress", { max: total || 1, value: rows, "aria-label": `Progress of ${name}` })),
    number(rate, 0), rate ? duration((total - rows) / rate) : "–", rejects(move)];
}

function pastRow(move) {
  const { assessment } = move;
  const before = "recall_at_10_translated_queries";
  const after = "recall_at_10_translated_store";
  return [store(move), state(move), translation(move),
    move.status === "finished" ? number(move.written) : `${number(move.rows)} of ${number(move.total)}`,
    rejects(move), recall(assessment, before), recall(assessment, after), verdict(assessment),
    element("time", { datetime: move.updated }, new Date(move.updated).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }))];
}

function store({ source, target, shard, engine }) {
  const share = shard ? `shard ${shard}` : null;
  const notes = [share, engine === "ray" ? "by Ray" : null].filter(Boolean).join(", ");
  return element("span", {}, `${source} → ${target}`, notes ? element("span", { class: "hint" }, ` ${notes}`) : null);
}

const translation = ({ versions }) => `${versions.source} → ${versions.target} (${versions.bridge})`;

function state(move) {
  const isBad = move.status === "failed";
  const text = move.reason ? `${move.status}: ${move.reason}` : move.status;
  return element("span", {}, element("span", { class: isBad ? "bad" : null }, text), warnings(move.warnings));
}

/** Rows that were left out or embedded anew, by reason, and those that are doubtful. */
function rejects({ rejected, re_embedded: embedded, uncovered, mismatched, reasons }) {
  const counts = [
    [rejected, "left out"], [embedded, "embedded anew"], [uncovered, "not covered by the anchors"], [mismatched, "of other lengths than the anchors"],
  ].filter(([count]) => count);
  const kinds = Object.entries(reasons).map(([reason, count]) => element("li", {}, `${number(count)}: ${reason}`));
  return element("span", {}, counts.map(([count, text]) => `${number(count)} ${text}`).join(", ") || "0", kinds.length ? element("ul", {}, kinds) : null);
}

function recall(assessment, name) {
  const value = assessment?.[name];
  if (value == null) return "–";
  const interval = assessment[`${name}_interval`];
  return interval ? `${number(value, 3)} (${number(interval[0], 3)} to ${number(interval[1], 3)})` : number(value, 3);
}

function verdict(assessment) {
  if (!assessment?.action) return "–";
  const [first, ...others] = assessment.reasons;
  return element("span", {}, element("strong", {}, assessment.action), first ? `: ${first}` : null,
    others.length ? element("details", {}, element("summary", {}, "More"), element("ul", {}, others.map((text) => element("li", {}, text)))) : null);
}

/** A time for people, such as 3.2 hours. */
function duration(seconds) {
  for (const [unit, name] of [[86400, "days"], [3600, "hours"], [60, "minutes"]]) if (seconds >= unit) return `${number(seconds / unit, 1)} ${name}`;
  return `${number(Math.ceil(seconds), 0)} seconds`;
}
