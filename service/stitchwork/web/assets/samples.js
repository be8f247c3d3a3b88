// Labelled samples in files: CSV, TSV, or JSON lines, as the commands read them.

const DELIMITERS = { csv: ",", tsv: "\t" };
const JSON_LINES = ["jsonl", "ndjson"];

/** An error in a file of the user. */
export class SampleError extends Error {}

const suffixOf = (file) => file.name.toLowerCase().split(".").pop();

/** Whether the values of a file are texts, whatever they mean. */
export const isDelimited = (file) => suffixOf(file) in DELIMITERS;

/** The content of a file of text. */
export async function readText(file) {
  const content = await file.arrayBuffer();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(content);
  } catch {
    throw new SampleError(`${file.name} is not UTF-8 text: save it with that encoding, then choose it again.`);
  }
}

/** The texts of a file: of a table its column "text", else one a line. */
export async function readTexts(file) {
  if (!isDelimited(file) && !JSON_LINES.includes(suffixOf(file))) return readText(file);
  const { columns: [texts], lines } = await readColumns(file, ["text"]);
  texts.forEach((text, i) => {
    if (typeof text === "string" && !/[\r\n]/.test(text)) return;
    throw new SampleError(`${file.name}, line ${lines[i]}: expected a text of one line, got ${typeof text === "string" ? "several lines" : JSON.stringify(text)}.`);
  });
  return texts.join("\n");
}

/**
 * A file as {inputs, labels, lines}; inputs are texts, images in base64, or rows of numbers, and
 * lines the numbers of the lines on which rows begin.
 *
 * @param {File} file
 * @param {string} inputColumn
 * @param {string} labelColumn
 */
export async function readSample(file, inputColumn, labelColumn) {
  const { columns: [inputs, labels], lines } = await readColumns(file, [inputColumn, labelColumn]);
  return { inputs, labels, lines };
}

async function readColumns(file, names) {
  const rows = parse(file, await readText(file), names);
  if (!rows.length) throw new SampleError(`${file.name} has no rows.`);
  const columns = names.map((name) => rows.map(({ line, values }) => {
    if (Object.hasOwn(values, name)) return values[name];
    throw new SampleError(`${file.name}, line ${line}: expected a column "${name}", got ${Object.keys(values).join(", ") || "none"}.`);
  }));
  return { columns, lines: rows.map(({ line }) => line) };
}

function parse(file, content, names) {
  const { name } = file;
  if (isDelimited(file)) return parseDelimited(name, content, DELIMITERS[suffixOf(file)], names);
  if (JSON_LINES.includes(suffixOf(file))) return parseJsonLines(name, content);
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
function parseDelimited(name, text, delimiter, names) {
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
  const { record: columns = [], line: first = 1 } = records.shift() ?? {};
  for (const column of names) {
    if (columns.includes(column)) continue;
    throw new SampleError(`${name}, line ${first}: expected a column "${column}", got ${columns.join(", ") || "none"}.${separatorHint(columns, delimiter)}`);
  }
  return records.map(({ line: number, record: values }) => {
    if (values.length !== columns.length) throw new SampleError(`${name}, line ${number}: expected ${columns.length} value${columns.length === 1 ? "" : "s"}, got ${values.length}.`);
    return { line: number, values: Object.fromEntries(columns.map((column, i) => [column, values[i]])) };
  });
}

const SEPARATORS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars" };

/** The probable cause of a header of one column. */
function separatorHint(columns, delimiter) {
  const actual = columns.length === 1 && Object.keys(SEPARATORS).find((one) => columns[0].includes(one));
  return actual ? ` Its values seem to be separated by ${SEPARATORS[actual]}: save it with ${SEPARATORS[delimiter]}.` : "";
}
