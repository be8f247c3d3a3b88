// Registers anchor sets, spaces and heads, and shows how far their registrations are.

import { ApiError, getAll, path, pause, sendBody, sendJson, withRows } from "./api.js";
import { choice, element, field, number, section, table, warnings } from "./dom.js";
import { fileField, inputCell, readImage, readLines } from "./inputs.js";
import { SampleError, readSample, readTexts } from "./samples.js";

const ID = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,127}";
const ID_HINT = "Letters, digits, dots, hyphens and underscores.";
const SAFETENSORS = { safetensors: "application/vnd.safetensors" };
const ARRAYS = { npy: "application/x-npy", ...SAFETENSORS };
const POLL_SECONDS = 1;

export async function registration(view, context) {
  const { signal } = context;
  const list = element("div", { id: "registrations" });
  const forms = element("div");
  const outcome = element("div", { id: "outcome", role: "status", "aria-live": "polite" });
  view.append(element("h1", {}, "Registration"),
    element("p", {}, "An anchor set is a list of inputs that several encoders embed. A space is one encoder's embeddings of them. A head classifies embeddings of its space, and, through the anchors, those of every other space on the set. Register them in this order, then try them in the ", element("a", { href: "#playground" }, "playground"), "."),
    forms, section("Registrations", {}, list));
  let isPending = false;
  let records = {};
  let latest = null;
  const showOutcome = ({ kind, id, outcome: verb, status, reason, warnings: texts }) => {
    const state = [verb, status].filter(Boolean).join(", ");
    outcome.replaceChildren(element("p", { class: status === "failed" ? "bad" : null }, `${kind} ${id}: ${state}${reason ? `: ${reason}` : "."}`), warnings(texts ?? []) ?? "");
  };
  /** The message on the latest registration, which follows what is computed for it. */
  const follow = () => {
    const record = latest?.status === "pending" && records[latest.kind].find(({ id }) => id === latest.id);
    if (!record) return;
    const { status, reason } = openPart(record) ?? record;
    if (status === "pending") return;
    const { kind, id, nameOf } = latest;
    latest = { kind, id, status, reason: reason?.replace(/^item (\d+)/, (item, i) => nameOf?.(Number(i)) ?? item), warnings: record.warnings };
    showOutcome(latest);
  };
  const refresh = async () => {
    const followed = latest;
    const [sets, spaces, heads] = await Promise.all(["anchor-sets", "spaces", "heads"].map((kind) => getAll(kind, signal)));
    records = { "Anchor set": sets, Space: spaces, Head: heads };
    isPending = [...spaces, ...heads].some((record) => openPart(record)?.status === "pending");
    showRecords(list, { sets, spaces, heads });
    // Lists that were requested before it are older than it.
    if (latest === followed) follow();
    return { sets, spaces, heads };
  };
  const register = async (kind, id, send, nameOf) => {
    // What failed is in nobody's use.
    const isFailed = records[kind].some((record) => record.id === id && record.status === "failed");
    const record = await send(replaces() || isFailed ? {} : { "If-None-Match": "*" }).catch((error) => {
      if (error.status === 412) error.message += '. Choose another id, or check "Replace".';
      throw error;
    });
    latest = { kind, id, nameOf, outcome: record.outcome, status: record.status, warnings: record.warnings };
    showOutcome(latest);
    outcome.scrollIntoView({ block: "nearest" });
    update(await refresh());
  };
  /** Show messages at a form, without the result of an earlier attempt. */
  const begin = (node) => {
    latest = null;
    outcome.replaceChildren();
    node.append(outcome);
    context.place(node);
  };
  const replace = element("input", { type: "checkbox", id: "replace" });
  const replaces = () => replace.checked;
  const options = element("datalist", { id: "set-ids" });
  const spaceOptions = element("datalist", { id: "space-ids" });
  const update = ({ sets, spaces }) => {
    options.replaceChildren(...sets.map((set) => element("option", { value: set.id })));
    spaceOptions.replaceChildren(...spaces.map((space) => element("option", { value: space.id })));
  };
  forms.append(options, spaceOptions,
    element("label", { class: "check" }, replace, "Replace a space or a head that has the same id"),
    setForm({ ...context, begin }, register), spaceForm({ ...context, begin }, register), headForm({ ...context, begin }, register));
  update(await refresh());
  context.report("");
  for (;;) {
    await pause(POLL_SECONDS, signal);
    try {
      if (isPending) await refresh();
    } catch (error) {
      if (!(error instanceof ApiError) || [401, 403].includes(error.status)) throw error;
      context.report(`${error.message} The states are those of a moment ago.`);
    }
  }
}

/** A form whose errors are shown, and which cannot be sent twice at a time. */
function form(title, context, controls, label, send) {
  let isSending = false;
  return section(title, {}, element("form", { class: "stack", onsubmit: async (event) => {
    event.preventDefault();
    if (isSending) return;
    isSending = true;
    context.begin(event.target);
    context.report("Sending…");
    try {
      await send();
      context.report("");
    } catch (error) {
      context.fail(error);
    } finally {
      isSending = false;
    }
  } }, controls, element("button", { type: "submit", class: "primary" }, label)));
}

const idInput = (id) => element("input", { id, required: true, pattern: ID, title: ID_HINT, autocomplete: "off", spellcheck: "false" });

/** A choice between kinds of something, and the controls of the kind that is chosen. */
function kinds(label, id, entries) {
  const names = Object.keys(entries);
  const content = element("div", { class: "stack" });
  const show = (name) => content.replaceChildren(...entries[name]);
  show(names[0]);
  const select = choice(label, id, names, names[0], show);
  return { node: element("div", {}, element("div", { class: "fields" }, select), content), value: () => select.querySelector("select").value };
}

/** One file of arrays, as the body of a request. */
function arrayField(label, id, hint, types) {
  const endings = Object.keys(types).map((suffix) => `.${suffix}`);
  let file = null;
  const name = element("p", { class: "hint" });
  const node = fileField(label, id, { accept: endings.join() }, hint, (files) => {
    [file] = files;
    name.textContent = file?.name ?? "";
  });
  const read = () => {
    const type = types[file?.name.toLowerCase().split(".").pop()];
    if (!type) throw new SampleError(`${label}: expected a file that ends in ${endings.join(" or ")}, got ${file?.name ?? "none"}.`);
    return { body: file, type };
  };
  return { node: element("div", {}, node, name), read };
}

function setForm(context, register) {
  const id = idInput("set-id");
  const texts = element("textarea", { id: "set-texts", rows: 5 });
  const images = element("p", { class: "images" });
  let files = [];
  const texted = fileField("Or a file of texts", "set-file", { accept: ".txt,.csv,.tsv,.jsonl,.ndjson,text/plain" }, "One text a line, or the column text of a CSV, TSV or JSON lines file; it fills the field above.", async (chosen) => {
    context.begin(texted);
    try {
      texts.value = chosen.length ? await readTexts(chosen[0]) : "";
      context.report("");
    } catch (error) {
      context.fail(error);
    }
  });
  const pictures = fileField("Images", "set-images", { accept: "image/*", multiple: true }, "Their file names become the ids of the anchors.", async (chosen) => {
    try {
      files = await Promise.all(chosen.map(readImage));
      images.replaceChildren(...files.slice(0, 20).map(inputCell), files.length > 20 ? `and ${files.length - 20} more` : "");
    } catch (error) {
      context.fail(error);
    }
  });
  const modality = kinds("Inputs", "modality", {
    text: [field("Texts", texts, "One text a line. A few hundred are a start; they must be like the inputs that will come."), texted], image: [pictures, images],
  });
  return form("1. Anchor set", context, [field("Id of the set", id, ID_HINT), modality.node], "Register the set", () => {
    const isText = modality.value() === "text";
    const { texts: items, lines } = readLines(texts.value);
    const nameOf = (i) => (isText ? `line ${lines[i]}` : files[i].name);
    const body = isText ? { modality: "text", items }
      : { modality: "image", items: files.map((file) => file.base64), ids: files.map((file) => file.name) };
    // A set is immutable: there is nothing to replace.
    return register("Anchor set", id.value, () => withRows(() => sendJson("PUT", path("anchor-sets", id.value), body, context.signal), nameOf));
  });
}

function spaceForm(context, register) {
  const id = idInput("space-id");
  const set = element("input", { id: "space-set", required: true, pattern: ID, list: "set-ids", autocomplete: "off" });
  const model = element("input", { id: "model", autocomplete: "off", spellcheck: "false" });
  const more = element("textarea", { id: "encoder-fields", rows: 2, spellcheck: "false" });
  let kind = "transformers";
  const rows = arrayField("Anchors", "space-anchors", "The anchors' embeddings (k, d) in the order of the set, as .npy or .safetensors.", ARRAYS);
  const source = kinds("Embeddings", "space-source", {
    "by an encoder of the service": [
      element("div", { class: "fields" }, choice("Library", "encoder-kind", ["transformers", "transformers-vision", "timm"], kind, (value) => { kind = value; })),
      field("Model", model, "A model of the hub, or a path on the workers that begins with . or /."),
      field("Further fields (optional)", more, 'As JSON, such as {"pooling": "cls"}; the guide on encoders lists them.')],
    "from a file": [rows.node],
  });
  return form("2. Space", context, [
    field("Id of the space", id, ID_HINT),
    field("Anchor set", set, "With a file, an unknown set is created."), source.node], "Register the space", () => {
    if (source.value() === "from a file") {
      const content = rows.read();
      return register("Space", id.value, (more) => sendBody("PUT", `${path("spaces", id.value)}?${new URLSearchParams({ anchor_set: set.value })}`, content, context.signal, more));
    }
    const encoder = { kind, model: model.value.trim(), ...jsonObject(more.value) };
    return register("Space", id.value, (headers) => sendJson("PUT", path("spaces", id.value), { anchor_set: set.value, encoder }, context.signal, headers));
  });
}

function jsonObject(text) {
  if (!text.trim()) return {};
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SampleError(`Further fields: expected a JSON object: ${error.message}.`);
  }
}

function headForm(context, register) {
  const id = idInput("head-id");
  const space = element("input", { id: "head-space", required: true, pattern: ID, list: "space-ids", autocomplete: "off" });
  const inputColumn = element("input", { id: "fit-input-column", value: "text" });
  const labelColumn = element("input", { id: "fit-label-column", value: "label" });
  const weights = arrayField("Weights", "head-weights", "A .safetensors file with weight and bias, or the layers of a torch Sequential, and labels in its metadata.", SAFETENSORS);
  let sample = null;
  const name = element("p", { class: "hint" });
  const file = fileField("Labelled sample", "fit-sample", { accept: ".csv,.tsv,.jsonl,.ndjson" }, "A CSV, TSV or JSON lines file with texts, images in base64 or, in JSON lines, embeddings as lists of numbers.", (files) => {
    [sample] = files;
    name.textContent = sample?.name ?? "";
  });
  const source = kinds("Head", "head-source", {
    "fitted on a labelled sample": [file, name, element("div", { class: "fields" }, field("Column of inputs", inputColumn), field("Column of labels", labelColumn))],
    "from a file of weights": [weights.node],
    "the classifier of the space's encoder": [],
  });
  return form("3. Head", context, [field("Id of the head", id, ID_HINT), field("Its space", space), source.node], "Register the head", async () => {
    const url = path("heads", id.value);
    if (source.value() === "from a file of weights") {
      const content = weights.read();
      return register("Head", id.value, (headers) => sendBody("PUT", `${url}?${new URLSearchParams({ space: space.value })}`, content, context.signal, headers));
    }
    const body = { space: space.value };
    let nameOf = null;
    if (source.value() === "the classifier of the space's encoder") body.classifier = true;
    else {
      if (!sample) throw new SampleError("Choose a labelled sample.");
      const { inputs, labels, lines } = await readSample(sample, inputColumn.value, labelColumn.value);
      body.fit = { labels, [typeof inputs[0] === "string" ? "items" : "embeddings"]: inputs };
      nameOf = (i) => `${sample.name}, line ${lines[i]}`;
    }
    return register("Head", id.value, (headers) => withRows(() => sendJson("PUT", url, body, context.signal, headers), nameOf), nameOf);
  });
}

/** What of a record is not ready, or failed. */
const openPart = (record) => (record.status === "ready" ? record.pending : record);

function showRecords(list, { sets, spaces, heads }) {
  const records = [
    ...sets.map((record) => ["anchor set", record, `${record.size} anchors`]),
    ...spaces.map((record) => ["space", record, record.anchor_set ? `${record.dim} dimensions on ${record.anchor_set}` : "–"]),
    ...heads.map((record) => ["head", record, record.labels ? `${record.labels.length} labels, in ${record.space}` : "–"]),
  ];
  const rows = records.map(([kind, record, about]) => [
    record.id, kind, stateOf(record), about, [record.reason, record.pending?.reason, ...(record.warnings ?? [])].filter(Boolean).join("; ") || "–",
  ]);
  list.replaceChildren(table("What is registered", ["Id", "Kind", "State", "Content", "Remarks"], rows, "Nothing is registered."));
}

function stateOf(record) {
  const open = openPart(record);
  if (!open) return "ready";
  const { done, total } = open.progress;
  const text = `${record.status === "ready" ? "ready, replacement " : ""}${open.status}: ${number(done)} of ${number(total)}`;
  const bar = open.status === "pending" ? element("progress", { max: total || 1, value: done, "aria-label": `Progress of ${record.id}` }) : null;
  return element("span", { "data-state": record.id }, text, bar);
}
