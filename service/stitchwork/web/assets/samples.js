// Labelled samples in files: CSV, TSV, or JSON lines, as the commands read them.

const DELIMITERS = { csv: ",", tsv: "\t" };
const JSON_LINES = ["jsonl", "ndjson"];

/** An error in a file of the user. */
export class SampleError extends Error {}

/**
 * A file as {inputs, labels}; inputs are texts, images in base64, or rows of numbers.
 *
 * @param {File} file
 * @param {string} inputColumn
 * @param {string} labelColumn
 */
export async function readSample(file, inputColumn, labelColumn) {
  const rows = parse(file.name, await file.text());
  if (!rows.length) throw new SampleError(`${file.name} has no rows.`);
  const column = (name) => rows.map(({ line, values }) => {
    if (Object.hasOwn(values, name)) return values[name];
    throw new SampleError(`${file.name}, line ${line}: expected a column "${name}", got ${Object.keys(values).join(", ") || "none"}.`);
  });
  return { inputs: column(inputColumn), labels: column(labelColumn) };
}

function parse(name, text) {
  const suffix = name.toLowerCase().split(".").pop();
  const content = text.replace(/^\ufeff/, "");
  if (DELIMITERS[suffix]) return parseDelimited(name, content, DELIMITERS[suffix]);
  if (JSON_LINES.includes(suffix)) return parseJsonLines(name, content);
  throw new SampleError(`Expected a file whose name ends in .csv, .tsv, .jsonl or .ndjson, got ${name}.`);
}

function parseJsonLines(name, text) {
  const rows = [];
  text.split("\n").forEach((content, i) => {
    if (!content.trim()) return;
    let values;
    try {
      values = JSON.parse(content);
    } catch (error) {
      throw new SampleError(`${name}, line ${i + 1}: expected one JSON value: ${error.message}.`);
    }
    if (values === null || typeof values !== "object" || Array.isArray(values)) throw new SampleError(`${name}, line ${i + 1}: expected a JSON object.`);
    rows.push({ line: i + 1, values });
  });
  return rows;
}

/** Rows of RFC 4180: values may be quoted, and then have delimiters, quotes and line ends in them. */
function parseDelimited(name, text, delimiter) {
  const records = [];
  let record = [];
  let line = 1;
  let start = 1;
  const pattern = new RegExp(`("(?:[^"]|"")*"|[^"${delimiter}\\r\\n][^${delimiter}\\r\\n]*|)(${delimiter}|\\r?\\n|\\r|$)`, "y");
  while (pattern.lastIndex < text.length) {
    const match = pattern.exec(text);
    if (!match) throw new SampleError(`${name}, line ${line}: expected a quote at the end of a quoted value, and a delimiter after it.`);
    const [, value, end] = match;
    record.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    line += value.split("\n").length - 1;
    if (end === delimiter) {
      if (pattern.lastIndex < text.length) continue;
      record.push("");
    }
    if (record.length > 1 || record[0] !== "") records.push({ line: start, record });
    record = [];
    line += 1;
    start = line;
  }
  const columns = records.shift()?.record ?? [];
  return records.map(({ line: number, record: values }) => {
    if (values.length !== columns.length) throw new SampleError(`${name}, line ${number}: expected ${columns.length} values, got ${values.length}.`);
    return { line: number, values: Object.fromEntries(columns.map((column, i) => [column, values[i]])) };
  });
}
