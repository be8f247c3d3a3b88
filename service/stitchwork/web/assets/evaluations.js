// Evaluations of heads on labelled samples, which go on while other views are open.
//
// Inputs are embedded in parts, so that a large sample has progress and meets no deadline. What
// has ended is kept in the session, without inputs.

import { ApiError, path, pause, sendJson, withRows } from "./api.js";
import { modalityOf, nameCutBox } from "./inputs.js";

const STORE = "evaluations";
const MAX_STORED = 20;
const PART = { text: 64, image: 16 };
const PATIENCE_MS = 300_000;
const PASSING = [0, 429, 503, 504];

/** All evaluations of the session, the latest first. */
export const evaluations = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
for (const entry of evaluations) {
  if (entry.status === "running") Object.assign(entry, { status: "interrupted", detail: "The page was closed or reloaded. Start it again with the file." });
}
const watchers = new Set();

/** Call a function whenever an evaluation changes, until a view is left. */
export function watch(onchange, signal) {
  watchers.add(onchange);
  signal.addEventListener("abort", () => watchers.delete(onchange));
}

function change(entry, fields) {
  Object.assign(entry, fields);
  sessionStorage.setItem(STORE, JSON.stringify(evaluations));
  for (const watcher of watchers) watcher(entry);
}

const warn = (event) => event.preventDefault();
const showLeaveWarning = () => (evaluations.some((entry) => entry.status === "running") ? addEventListener : removeEventListener)("beforeunload", warn);

const controllers = new Map();

/** Stop an evaluation. */
export const cancel = (entry) => controllers.get(entry.number)?.abort();

/**
 * Start an evaluation.
 *
 * @param request {file, encoder, head, nativeSpace, inputs, lines, labels, bridge, calibrate, minAccuracy, truncate},
 *   with the records of the spaces, and the line of the file on which each input begins.
 */
export function start(request) {
  const { file, encoder, head, bridge, inputs } = request;
  const entry = {
    number: 1 + Math.max(0, ...evaluations.map((other) => other.number)), file, encoder: encoder.id, head: head.id, bridge,
    samples: inputs.length, status: "running", done: 0, total: 0, detail: "", truncated: 0, report: null,
  };
  evaluations.unshift(entry);
  evaluations.splice(MAX_STORED);
  const controller = new AbortController();
  controllers.set(entry.number, controller);
  change(entry, {});
  showLeaveWarning();
  compute(entry, request, controller.signal).then(
    (report) => change(entry, { status: "done", detail: "", report }),
    (error) => {
      change(entry, error.name === "AbortError" ? { status: "cancelled", detail: "" } : { status: "failed", detail: nameCutBox(error).message });
      if (!(error instanceof ApiError) && error.name !== "AbortError") throw error;
    },
  ).finally(showLeaveWarning);
  return entry;
}

async function compute(entry, request, signal) {
  const { encoder, head, nativeSpace, inputs, lines, labels, bridge, calibrate, minAccuracy } = request;
  const isItems = typeof inputs[0] === "string";
  const isNative = nativeSpace.id === encoder.id;
  const embedsNative = isItems && !isNative && nativeSpace.encoder && modalityOf(nativeSpace.encoder) === modalityOf(encoder.encoder);
  entry.total = isItems ? inputs.length * (embedsNative ? 2 : 1) : 0;
  const embeddings = isItems ? await embed(entry, encoder, request, signal) : inputs;
  const native = embedsNative ? await embed(entry, nativeSpace, request, signal) : null;
  change(entry, { detail: "Evaluating" });
  const body = {
    labels, bridge, calibrate, embeddings, ...(native && { native_embeddings: native }),
    ...(isItems && { encoding_format: "base64" }), ...(minAccuracy && { min_accuracy: minAccuracy }),
  };
  const report = await withRows(() => patiently(entry, signal, () => sendJson("POST", path("compatibility", encoder.id, head.id), body, signal)), (i) => `line ${lines[i]}`);
  if (!native && !isNative) {
    report.native.reason = isItems ? `Space ${nativeSpace.id}, which the head is of, has no encoder for these inputs.`
      : `The sample has no embeddings of space ${nativeSpace.id}, which the head is of.`;
  }
  // Numbers of all inputs would fill the session's storage.
  const { uncovered, undefined: noDirection, ...rest } = report;
  return { ...rest, uncovered: uncovered.length, undefined: noDirection.length };
}

async function embed(entry, space, { inputs, lines, truncate }, signal) {
  const rows = [];
  let size = PART[modalityOf(space.encoder)];
  while (rows.length < inputs.length) {
    const start = rows.length;
    const reply = await withRows(() => patiently(entry, signal, () => {
      const body = { items: inputs.slice(start, start + size), encoding_format: "base64", ...(truncate && { truncate }) };
      return sendJson("POST", path("embed", space.id), body, signal);
    }, (problem) => { size = Math.max(1, Math.min(size, problem.max_items ?? size)); }), (i) => `line ${lines[start + i]}`);
    rows.push(...reply.embeddings);
    const truncated = entry.truncated + (space.id === entry.encoder ? reply.truncated.length : 0);
    change(entry, { done: entry.done + reply.embeddings.length, truncated, detail: `Embedding in ${space.id}` });
  }
  return rows;
}

/** The result of a request, which is sent again while the service is busy or away. */
async function patiently(entry, signal, send, onproblem = () => {}) {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await send();
    } catch (error) {
      if (!(error instanceof ApiError) || !PASSING.includes(error.status) || performance.now() > deadline) throw error;
      onproblem(error.problem);
      change(entry, { detail: `Waiting: ${error.message}` });
      await pause(error.retrySeconds ?? 1, signal);
    }
  }
}
