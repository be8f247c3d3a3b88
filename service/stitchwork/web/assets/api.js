// The HTTP API. URLs are relative to the page, so that they hold below a path prefix.

const KEY = "key";

/** An error of the API, or of the way to it. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const storedKey = () => sessionStorage.getItem(KEY);
export const storeKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

async function request(path, signal) {
  const key = storedKey();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  try {
    return await fetch(path, { headers, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service cannot be reached.", 0);
  }
}

async function check(response, allowed = []) {
  if (response.ok || allowed.includes(response.status)) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ApiError(problem.detail || `Status ${response.status}`, response.status);
}

/** JSON of the API; statuses besides the successful ones may be allowed. */
export async function getJson(path, signal, allowed) {
  return (await check(await request(path, signal), allowed)).json();
}

/** Wait, unless the view is left. */
export async function pause(seconds, signal) {
  await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  signal.throwIfAborted();
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

/** The metrics: the sum of all series of each name. */
export async function getMetrics(signal) {
  const text = await (await check(await request("metrics", signal))).text();
  const totals = new Map();
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{.*\})? (\S+)$/.exec(line);
    if (match) totals.set(match[1], (totals.get(match[1]) || 0) + Number(match[2]));
  }
  return totals;
}
