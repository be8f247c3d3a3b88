// The calls of the page as commands and programs of a user, who runs them in the folder of the files.

import { storedKey } from "./api.js";

const base = () => new URL(".", location.href).href.replace(/\/$/, "");

/** A word of a POSIX shell. */
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A literal of Python, which reads the escapes of JSON. */
const python = (text) => JSON.stringify(text);

/** The name of a file in a form, as curl reads it: quoted, since commas and semicolons end it. */
const formFile = (name) => shell(`items=@"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`);

const stitchUrl = (encoder, head) => `${base()}/stitch/${encodeURIComponent(encoder)}/${encodeURIComponent(head)}`;

/** POST /stitch/{encoder}/{head} by curl. */
export function curlCall({ encoder, head, bridge, top, truncate, texts, files }) {
  const url = stitchUrl(encoder, head);
  const key = storedKey() ? ['-H "Authorization: Bearer $STITCHWORK_KEY"'] : [];
  const body = texts
    ? ["-H 'Content-Type: application/json'", `-d ${shell(JSON.stringify({ items: texts, bridge, top, truncate }))}`]
    : [...files.map(({ name }) => `-F ${formFile(name)}`), `-F bridge=${bridge}`, `-F top=${top}`];
  return [`curl -X POST ${shell(url)}`, ...key, ...body].join(" \\\n  ");
}

/** The same call by the Python client, which reads the key from the same variable. */
export function pythonCall({ encoder, head, bridge, top, truncate, texts, files }) {
  const items = texts
    ? texts.map(python)
    : files.map(({ name }) => `Path(${python(name)}).read_bytes()`);
  if (truncate) return pythonRequest(items, { encoder, head, bridge, top });
  return [
    ...(texts ? [] : ["from pathlib import Path", ""]),
    "from stitchwork import Stitchwork",
    "",
    "items = [",
    ...items.map((item) => `    ${item},`),
    "]",
    `with Stitchwork(${python(base())}) as client:`,
    `    for prediction in client.stitch(${python(encoder)}, ${python(head)}, items, ${python(bridge)}, top=${top}):`,
    "        print(prediction)",
  ].join("\n");
}

/** The same call with truncate, which is a field of the request and no argument of the client. */
function pythonRequest(items, { encoder, head, bridge, top }) {
  return [
    ...(storedKey() ? ["import os", ""] : []),
    "import httpx",
    "",
    "items = [",
    ...items.map((item) => `    ${item},`),
    "]",
    `body = {"items": items, "bridge": ${python(bridge)}, "top": ${top}, "truncate": True}`,
    ...(storedKey() ? ['headers = {"Authorization": "Bearer " + os.environ["STITCHWORK_KEY"]}'] : ["headers = {}"]),
    `response = httpx.post(${python(stitchUrl(encoder, head))}, json=body, headers=headers, timeout=60)`,
    "response.raise_for_status()",
    'for prediction in response.json()["predictions"]:',
    "    print(prediction)",
  ].join("\n");
}
