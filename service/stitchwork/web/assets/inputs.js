// Inputs of a view: texts, or images that are chosen or dropped.

import { element, field } from "./dom.js";
import { SampleError } from "./samples.js";

/** What sets that texts are cut. */
export const CUT_LABEL = "Cut long texts";

/** An error about a long text, as a user of that box reads it. */
export function nameCutBox(error) {
  error.message = error.message.replace("set truncate to cut", `check "${CUT_LABEL}" to cut`);
  return error;
}

/** The modality of the inputs of an encoder. */
export const modalityOf = (encoder) => (encoder.kind === "transformers" ? "text" : "image");

/** The texts of a text area, one a line, as {texts, lines}, with the number of each one's line. */
export function readLines(text) {
  const rows = text.split("\n").map((content, i) => ({ text: content.trim(), line: i + 1 })).filter((row) => row.text);
  return { texts: rows.map((row) => row.text), lines: rows.map((row) => row.line) };
}

/** A file as {name, url, base64}, whose URL holds its content. */
export function readImage(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name, url: reader.result, base64: reader.result.split(",")[1] ?? "" });
    reader.onerror = () => reject(new SampleError(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

/** A field of files, which takes those that are dropped on it. */
export function fileField(label, id, attributes, hint, onfiles) {
  const input = element("input", { id, type: "file", ...attributes, onchange: () => onfiles([...input.files]) });
  const node = field(label, input, hint);
  node.classList.add("drop");
  node.addEventListener("dragover", (event) => {
    event.preventDefault();
    node.classList.add("over");
  });
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    node.classList.remove("over");
    onfiles([...event.dataTransfer.files]);
  });
  return node;
}

/** The short form of an input in a table: the beginning of a text, or a small image. */
export function inputCell(input) {
  if (typeof input !== "string") return element("img", { src: input.url, alt: input.name, class: "input" });
  return input.length > 120 ? `${input.slice(0, 120)}…` : input;
}
