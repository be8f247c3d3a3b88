// How well a head works behind an encoder, on a labelled sample.

import { getAll, getJson } from "./api.js";
import { clear, scatter } from "./charts.js";
import { choice, element, facts, field, number, section, table, warnings } from "./dom.js";
import { cancel, evaluations, start, watch } from "./evaluations.js";
import { CUT_LABEL, fileField, modalityOf } from "./inputs.js";
import { SampleError, isDelimited, readSample } from "./samples.js";

export async function evaluate(view, context) {
  const { signal } = context;
  const [info, spaces, heads] = await Promise.all([getJson("info", signal), getAll("spaces", signal), getAll("heads", signal)]);
  const ready = spaces.filter((space) => space.status === "ready");
  const own = heads.filter((head) => head.status === "ready" && ready.some((space) => space.id === head.space));
  view.append(element("h1", {}, "Evaluate"));
  const list = element("div", { id: "evaluations" });
  const details = element("div", { id: "evaluation" });
  const show = (entry) => showReport(details, entry);
  view.append(
    own.length ? startForm({ info, spaces: ready, heads: own }, context) : element("p", {}, "No head is ready. ", element("a", { href: "#registration" }, "Register one"), "."),
    section("Evaluations of this session", {}, list), details);
  const nodes = new Map();
  const update = (entry) => {
    if (!nodes.has(entry.number)) list.replaceChildren(table("Evaluations", ["Sample", "Result", "State", "Encoder to head"],
      evaluations.map((one) => row(nodes, one, show)), "None was started yet."));
    for (const one of evaluations) nodes.get(one.number).update();
    if (entry?.status === "done") show(entry);
  };
  update(evaluations[0] ?? { number: -1 });
  watch(update, signal);
}

function row(nodes, entry, show) {
  const state = element("span", { id: `state-${entry.number}` });
  const progress = element("progress", { "aria-label": `Progress of evaluation ${entry.number}` });
  const actions = element("span");
  const button = element("button", { type: "button" });
  actions.append(button);
  let isRunning = null;
  const update = () => {
    state.textContent = entry.status === "running" ? `${entry.detail || "Starting"}: ${entry.done} of ${entry.total}` : [entry.status, entry.detail].filter(Boolean).join(": ");
    progress.hidden = entry.status !== "running";
    if (entry.total) Object.assign(progress, { max: entry.total, value: entry.done });
    if (isRunning === (entry.status === "running")) return;
    isRunning = entry.status === "running";
    button.hidden = !isRunning && !entry.report;
    button.textContent = isRunning ? "Cancel" : "Show";
    button.setAttribute("aria-label", `${button.textContent} evaluation ${entry.number}`);
    button.onclick = () => (isRunning ? cancel(entry) : show(entry));
  };
  nodes.set(entry.number, { update });
  update();
  return [entry.file, actions, [state, progress], `${entry.encoder} to ${entry.head} (${entry.bridge})`];
}

function startForm({ info, spaces, heads }, context) {
  const spaceOf = (id) => spaces.find((space) => space.id === id);
  const selected = { head: heads[0].id, encoder: null, bridge: info.default_bridge, file: null };
  const controls = element("div", { class: "fields" });
  const show = () => {
    const set = spaceOf(heads.find((head) => head.id === selected.head).space).anchor_set;
    const sources = spaces.filter((space) => space.anchor_set === set);
    // An encoder comes first: its samples may be raw inputs.
    sources.sort((a, b) => Boolean(b.encoder) - Boolean(a.encoder));
    if (!sources.some((space) => space.id === selected.encoder)) selected.encoder = sources[0].id;
    controls.replaceChildren(
      choice("Head", "head", heads.map((head) => head.id), selected.head, (id) => { selected.head = id; show(); }),
      choice("Encoder", "encoder", sources.map((space) => space.id), selected.encoder, (id) => { selected.encoder = id; show(); }),
      choice("Bridge", "bridge", info.bridges, selected.bridge, (bridge) => { selected.bridge = bridge; }));
    const { encoder } = spaceOf(selected.encoder);
    inputColumn.value = encoder ? modalityOf(encoder) : "embedding";
    truncateBox.hidden = inputColumn.value !== "text";
  };
  const inputColumn = element("input", { id: "input-column", required: true });
  const labelColumn = element("input", { id: "label-column", required: true, value: "label" });
  const minAccuracy = element("input", { id: "min-accuracy", type: "number", min: "0.01", max: "0.99", step: "0.01" });
  const calibrate = element("input", { type: "checkbox", id: "calibrate" });
  const truncate = element("input", { type: "checkbox", id: "truncate" });
  const truncateBox = element("label", { class: "check" }, truncate, CUT_LABEL);
  const chosen = element("p", { class: "hint", id: "sample-name" });
  const file = fileField("Labelled sample", "sample", { accept: ".csv,.tsv,.jsonl,.ndjson" },
    "A CSV, TSV or JSON lines file. Inputs are texts, images in base64 or, in JSON lines, embeddings as lists of numbers.",
    (files) => { [selected.file] = files; chosen.textContent = files[0]?.name ?? ""; });
  show();
  return section("A new evaluation", {}, element("form", { class: "stack", onsubmit: (event) => {
    event.preventDefault();
    context.place(event.target);
    begin({ spaceOf, heads, selected }, {
      inputColumn: inputColumn.value, labelColumn: labelColumn.value, calibrate: calibrate.checked, minAccuracy: Number(minAccuracy.value),
      truncate: truncate.checked && !truncateBox.hidden,
    }).then(() => context.report(""), context.fail);
  } }, controls, file, chosen,
  element("div", { class: "fields" },
    field("Column of inputs", inputColumn), field("Column of labels", labelColumn), field("Accuracy to assure (optional)", minAccuracy)),
  truncateBox, element("label", { class: "check" }, calibrate, "Calibrate the confidence of further predictions on it (needs the scope admin)"),
  element("button", { type: "submit", class: "primary" }, "Evaluate")));
}

async function begin({ spaceOf, heads, selected }, options) {
  if (!selected.file) throw new SampleError("Choose a file.");
  const head = heads.find(({ id }) => id === selected.head);
  const encoder = spaceOf(selected.encoder);
  const needsRows = `Space ${encoder.id} has no encoder: expected a JSON lines file with embeddings as lists of numbers in column ${options.inputColumn}.`;
  if (!encoder.encoder && isDelimited(selected.file)) throw new SampleError(needsRows);
  const { inputs, labels, lines } = await readSample(selected.file, options.inputColumn, options.labelColumn).catch((error) => {
    if (error instanceof SampleError && !encoder.encoder) error.message += ` ${needsRows}`;
    throw error;
  });
  if (typeof inputs[0] === "string" && !encoder.encoder) throw new SampleError(needsRows);
  // A CSV file has texts only; the service takes numbers of a regression.
  const isNumber = head.problem_type === "regression";
  if (!isNumber) checkLabels(selected.file.name, head, labels, lines);
  start({
    file: selected.file.name, encoder, head, nativeSpace: spaceOf(head.space), inputs, lines, truncate: options.truncate, bridge: selected.bridge,
    labels: isNumber ? labels.map((label, i) => numbersOf(label, `${selected.file.name}, line ${lines[i]}`)) : labels,
    calibrate: options.calibrate, minAccuracy: options.minAccuracy,
  });
}

/** The values of a regression, written as decimal numbers; an empty cell is no 0. */
function numbersOf(label, place) {
  if (Array.isArray(label)) return label.map((value) => numbersOf(value, place));
  if (typeof label !== "string") return label;
  if (!/^\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*$/i.test(label)) throw new SampleError(`${place}: expected a number as label, got "${label.slice(0, 80)}".`);
  return Number(label);
}

/** Refuse labels that the head lacks, before anything is embedded. */
function checkLabels(file, head, labels, lines) {
  const textOf = (label) => (typeof label === "string" ? label : JSON.stringify(label));
  const classes = new Set(head.labels.map(textOf));
  const unknown = new Map();
  labels.forEach((label, i) => {
    for (const text of [label].flat().map(textOf)) if (!classes.has(text) && !unknown.has(text)) unknown.set(text, lines[i]);
  });
  if (!unknown.size) return;
  const named = (texts) => `${texts.slice(0, 5).map((text) => `"${text.slice(0, 80)}"`).join(", ")}${texts.length > 5 ? ` and ${texts.length - 5} more` : ""}`;
  throw new SampleError(`${file}, line ${[...unknown.values()][0]}: head ${head.id} has no class ${named([...unknown.keys()])}; it has ${named([...classes])}.`);
}

function showReport(details, entry) {
  clear();
  const { report } = entry;
  const interval = (pair) => (pair ? `${number(pair[0], 3)} to ${number(pair[1], 3)}` : "–");
  const isRegression = "r2" in report.translated;
  const results = [["Through the bridge", report.translated], ["Head's own encoder", report.native], ["Without a bridge", report.absolute]];
  const columns = isRegression ? ["Embeddings", "Explained variance", "95% interval", "Mean absolute error", "Reason"] : ["Embeddings", "Accuracy", "95% interval", "F1", "Reason"];
  details.replaceChildren(
    section(`${entry.encoder} to ${entry.head}`, { id: "report" },
      element("p", { id: "verdict" }, element("strong", {}, report.verdict), `: ${report.reason}`),
      facts([["Samples", number(report.samples), "samples"], ["Chance", number(report.chance, 3)],
        ["Not like the anchors", number(report.uncovered)], ["Texts cut", number(entry.truncated), "texts-cut"],
        ...(report.confidence ? [["Calibration error", number(report.confidence.ece, 3), "ece"], ["AUROC of confidence", number(report.confidence.auroc, 3)],
          ["Confidence", report.confidence.calibrated ? "calibrated" : "not calibrated"]] : [])]),
      table(`Sample ${entry.file}`, columns, results.map(([name, result]) => [name, number(result.accuracy ?? result.r2, 3), interval(result.interval),
        number(result.f1 ?? result.mae, 3), result.reason ?? "–"]), ""),
      report.threshold ? element("p", { id: "threshold" }, thresholdText(report.threshold)) : null,
      warnings(report.warnings)),
    ...(report.confidence ? [reliability(report.confidence.reliability)] : []));
}

function thresholdText({ min_accuracy: accuracy, confidence, coverage, reason }) {
  return confidence === null ? `${reason}.` : `From a confidence of ${number(confidence, 3)} on, predictions have an accuracy of at least ${number(accuracy, 3)}: ${number(100 * coverage, 0)}% of the sample.`;
}

function reliability(bins) {
  const canvas = element("canvas", { role: "img", "aria-label": "Reliability: accuracy by confidence; the figures are in the table below" });
  const node = section("Reliability", { id: "reliability" }, element("div", { class: "chart" }, canvas),
    element("p", {}, "Each point is a group of predictions of similar confidence; on the diagonal confidence equals accuracy."),
    table("Predictions by confidence", ["Confidence", "Mean confidence", "Accuracy", "Predictions"],
      bins.map((bin) => [`${number(bin.low)} to ${number(bin.high)}`, number(bin.confidence, 3), number(bin.accuracy, 3), number(bin.size)]), ""));
  // The chart is as large as its box, once that is in the page.
  queueMicrotask(() => canvas.isConnected && scatter(canvas, [{
    label: "accuracy", color: "--accent", style: "circle", points: bins.map((bin) => [bin.confidence, bin.accuracy]), names: bins.map((bin) => `${bin.size} predictions`),
  }], "mean confidence", "accuracy", [[[0, 0], [1, 1]]]));
  return node;
}
