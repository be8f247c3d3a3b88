// Texts or images, classified by an encoder and any heads of its anchor set.

import { ApiError, getAll, getJson, path, sendJson, withRows } from "./api.js";
import { checkbox, choice, code, element, field, number, section, table, warnings } from "./dom.js";
import { CUT_LABEL, fileField, inputCell, modalityOf, nameCutBox, readImage, readLines } from "./inputs.js";
import { curlCall, pythonCall } from "./snippets.js";

const TOP = 5;
const NEAREST = 5;
// What was entered, while the page is open: another view does not lose it.
const draft = { encoder: null, bridge: null, heads: new Map(), text: "", images: [], truncate: false };

export async function playground(view, context) {
  const { signal } = context;
  const [info, spaces, heads] = await Promise.all([getJson("info", signal), getAll("spaces", signal), getAll("heads", signal)]);
  const encoders = spaces.filter((space) => space.status === "ready" && space.encoder);
  view.append(element("h1", {}, "Playground"));
  if (!encoders.length) {
    view.append(element("p", {}, "No space with an encoder is ready. ", element("a", { href: "#registration" }, "Register one"), "."));
    return;
  }
  const setOf = Object.fromEntries(spaces.map((space) => [space.id, space.anchor_set]));
  if (!encoders.some((space) => space.id === draft.encoder)) draft.encoder = encoders[0].id;
  if (!info.bridges.includes(draft.bridge)) draft.bridge = info.default_bridge;
  const form = element("div");
  const results = element("div", { id: "results" });
  const show = () => {
    const encoder = encoders.find((space) => space.id === draft.encoder);
    const own = heads.filter((head) => head.status === "ready" && setOf[head.space] === encoder.anchor_set);
    form.replaceChildren(inputForm(encoder, own, context, results));
    results.replaceChildren();
  };
  view.append(section("Inputs", {},
    element("div", { class: "fields" },
      choice("Encoder", "encoder", encoders.map((space) => space.id), draft.encoder, (id) => { draft.encoder = id; show(); }),
      choice("Bridge", "bridge", info.bridges, draft.bridge, (bridge) => { draft.bridge = bridge; })),
    form), results);
  show();
}

function inputForm(encoder, heads, context, results) {
  const modality = modalityOf(encoder.encoder);
  const boxes = heads.map((head) => checkbox(head.space === encoder.id ? `${head.id} (its own)` : `${head.id} (of ${head.space})`, {
    name: "head", value: head.id, checked: draft.heads.get(head.id) ?? true,
    onchange: (event) => draft.heads.set(head.id, event.target.checked),
  }));
  const list = element("p", { id: "images", class: "images" });
  const showImages = () => list.replaceChildren(...draft.images.map(inputCell));
  const addImages = async (files) => {
    draft.images = await Promise.all(files.map(readImage));
    showImages();
  };
  const area = element("textarea", { id: "texts", rows: 4, required: true, oninput: () => { draft.text = area.value; } });
  area.value = draft.text;
  showImages();
  let controller = null;
  return element("form", { class: "stack", onsubmit: (event) => {
    event.preventDefault();
    controller?.abort();
    controller = new AbortController();
    const chosen = heads.filter((head) => draft.heads.get(head.id) ?? true);
    const { texts, lines } = readLines(draft.text);
    const inputs = modality === "text" ? texts : draft.images;
    const nameOf = (i) => (modality === "text" ? `line ${lines[i]}` : draft.images[i].name);
    context.place(event.target);
    const signal = AbortSignal.any([controller.signal, context.signal]);
    run(results, { ...context, signal }, { encoder: encoder.id, heads: chosen, inputs, modality, nameOf }).catch(context.fail);
  } },
    modality === "text"
      ? element("div", { class: "stack" }, field("Texts", area, "One text a line."),
        checkbox(CUT_LABEL, { id: "truncate", checked: draft.truncate, onchange: (event) => { draft.truncate = event.target.checked; } }))
      : element("div", {}, fileField("Images", "files", { accept: "image/*", multiple: true }, "Choose image files, or drop them here.",
        (files) => addImages(files).catch(context.fail)), list),
    boxes.length
      ? element("fieldset", {}, element("legend", {}, "Heads"), boxes)
      : element("p", {}, "No head is registered on this anchor set: only the nearest anchors are shown. ", element("a", { href: "#registration" }, "Register a head"), "."),
    element("button", { type: "submit", class: "primary" }, "Run"));
}

async function run(results, context, { encoder, heads, inputs, modality, nameOf }) {
  const { bridge } = draft;
  const cut = modality === "text" && draft.truncate ? { truncate: true } : {};
  const { signal } = context;
  if (!inputs.length) throw new ApiError(modality === "text" ? "Enter a text." : "Choose an image.", 0);
  const items = inputs.map((input) => (modality === "text" ? input : input.base64));
  results.replaceChildren();
  context.report("Computing…");
  const nearest = withRows(() => findNearest(encoder, { items, ...cut }, signal), nameOf);
  const calls = heads.map((head) => withRows(() => sendJson("POST", path("stitch", encoder, head.id), { items, bridge, top: TOP, ...cut }, signal), nameOf));
  const [anchors, ...predictions] = await Promise.allSettled([nearest, ...calls]);
  signal.throwIfAborted();
  const failures = [anchors, ...predictions].filter((result) => result.status === "rejected").map((result) => nameCutBox(result.reason));
  const refused = failures.find((error) => !(error instanceof ApiError) || [401, 403].includes(error.status));
  if (refused) throw refused;
  context.report("");
  const call = { encoder, bridge, top: TOP, ...cut, ...(modality === "text" ? { texts: inputs } : { files: inputs }) };
  predictions.forEach((result, i) => results.append(headSection(heads[i], result, inputs, call)));
  results.append(section("Nearest anchors", { id: "nearest" }, anchors.reason
    ? element("p", { class: "bad" }, anchors.reason.message)
    : !anchors.value ? element("p", {}, "The nearest anchors are shown to keys that have the scope export too.")
    : table(`Anchors of ${encoder} with the largest cosines`, ["Input", "Anchors"],
      inputs.map((input, i) => [inputCell(input), anchors.value[i].map(anchorText).join("; ") || "none: it is at the mean of the anchors"]), "")));
}

/** The nearest anchors of each input; null if the key may not see them. */
async function findNearest(encoder, inputs, signal) {
  const { embeddings } = await sendJson("POST", path("embed", encoder), { ...inputs, encoding_format: "base64" }, signal);
  const body = { embeddings, encoding_format: "base64", count: NEAREST };
  try {
    return (await sendJson("POST", path("spaces", encoder, "anchors", "nearest"), body, signal)).nearest;
  } catch (error) {
    if (error.status === 403) return null;
    throw error;
  }
}

const anchorText = ({ anchor, text, cosine }) => `${text ?? anchor} (${number(cosine)})`;

function headSection(head, { value, reason }, inputs, call) {
  const title = `Head ${head.id}`;
  if (reason) return section(title, {}, element("p", { class: "bad" }, reason.message));
  const remarks = (prediction, i) => [
    value.uncovered.includes(i) && "not like the anchors (uncovered)",
    value.undefined?.includes(i) && "at the mean of the anchors, which has no direction",
    value.truncated.includes(i) && "the text was cut",
    prediction.abstained && "the head abstains",
  ].filter(Boolean).join("; ") || "–";
  const rows = value.predictions.map((prediction, i) => [inputCell(inputs[i]), ...cells(prediction), remarks(prediction, i)]);
  const columns = value.predictions[0].values ? ["Values"] : ["Label", "Confidence", "Scores"];
  const one = { ...call, head: head.id };
  return section(title, { "data-head": head.id },
    table(`Predictions of ${head.id} for inputs of ${call.encoder}`, ["Input", ...columns, "Remarks"], rows, ""),
    warnings(value.warnings),
    element("details", {}, element("summary", {}, "The same call by curl and Python"),
      code("curl", `curl-${head.id}`, curlCall(one)), code("Python", `python-${head.id}`, pythonCall(one))));
}

function cells(prediction) {
  const list = (scores) => scores.map(({ label, score }) => `${label} ${number(score, 3)}`).join(", ");
  if (prediction.values) return [prediction.values.map(({ label, value }) => `${label} ${number(value, 3)}`).join(", ")];
  const label = prediction.labels ? list(prediction.labels) || "none" : String(prediction.label ?? "none");
  const kind = prediction.calibrated ? "calibrated" : "not calibrated";
  return [element("strong", {}, label), `${number(prediction.confidence, 3)}, ${kind}`, list(prediction.top)];
}
