// The HTTP API. URLs are relative to the page, so that they hold below a path prefix.

const KEY = "key";

/** An error of the API, or of the way to it. */
export class ApiError extends Error {
  constructor(message, status, problem = {}, retrySeconds = null) {
    super(message);
    this.status = status;
    this.problem = problem;
    this.retrySeconds = retrySeconds;
  }
}

export const storedKey = () => sessionStorage.getItem(KEY);
export const storeKey = (key) => sessionStorage.setItem(KEY, key);
/** Forget the key, and what was computed with it. */
export const forgetKey = () => sessionStorage.clear();

async function request(path, signal, { method = "GET", body, type, more } = {}) {
  const key = storedKey();
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(type && { "Content-Type": type }), ...more };
  try {
    return await fetch(path, { method, headers, body, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service cannot be reached.", 0);
  }
}

async function check(response, allowed = []) {
  if (response.ok || allowed.includes(response.status)) return response;
  const problem = await response.json().catch(() => ({}));
  const place = problem.pointer ? ` (field ${problem.pointer.slice(1).replaceAll("/", ".")})` : "";
  const seconds = Number(response.headers.get("Retry-After"));
  throw new ApiError((problem.detail || `Status ${response.status}`) + place, response.status, problem, seconds || null);
}

/** JSON of the API; statuses besides the successful ones may be allowed. */
export async function getJson(path, signal, allowed) {
  return (await check(await request(path, signal), allowed)).json();
}

/** Send JSON, and get JSON. */
export async function sendJson(method, path, body, signal, more) {
  return sendBody(method, path, { body: JSON.stringify(body), type: "application/json" }, signal, more);
}

/** Send a body of some media type with more headers, and get JSON. */
export async function sendBody(method, path, { body, type }, signal, more) {
  return (await check(await request(path, signal, { method, body, type, more }))).json();
}

/**
 * Run a call, and name the user's row that an error is about in place of the index in the request.
 *
 * @param {Function} call
 * @param {Function} nameOf The name of an input by its index in the request, such as "line 5".
 */
export async function withRows(call, nameOf) {
  try {
    return await call();
  } catch (error) {
    const [, index] = /^\/(?:fit\/)?(?:items|ids|labels|embeddings|native_embeddings)\/(\d+)/.exec(error.problem?.pointer ?? "") ?? [];
    if (index !== undefined) error.message = `${nameOf(Number(index))}: ${error.problem.detail}`;
    throw error;
  }
}

/** A path of the API with ids, relative to the page. */
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

/** Wait, unless it is cancelled. */
export async function pause(seconds, signal) {
  await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  signal?.throwIfAborted();
}

/** All records of a list. */
export async function getAll(path, signal) {
  const items = [];
  for (let cursor = null; ;) {
    const query = new URLSearchParams({ limit: 1000, ...(cursor && { cursor }) });
    const page = await getJson(`${path}?${query}`, signal);
    items.push(...page.items);
    if (!(cursor = page.cursor)) return items;
  }
}

/** A report, once it is computed. */
export async function getReport(path, signal, onProgress) {
  for (;;) {
    const response = await check(await request(path, signal));
    const body = await response.json();
    if (response.status !== 202) return body;
    onProgress(body.progress);
    await pause(response.headers.get("Retry-After") || 1, signal);
  }
}

/** The metrics: the sum of all series of each name, and the errors of all routes but those of health. */
export async function getMetrics(signal) {
  const text = await (await check(await request("metrics", signal))).text();
  const totals = new Map([["errors", 0]]);
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (!name) continue;
    totals.set(name, (totals.get(name) || 0) + Number(value));
    // Not ready is an answer to who asks for health, and no error.
    const isError = name === "stitchwork_requests_total" && /\bstatus="[45]/.test(labels) && !/\broute="\/health/.test(labels);
    if (isError) totals.set("errors", totals.get("errors") + Number(value));
  }
  return totals;
}
