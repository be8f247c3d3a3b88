// What the service does at the moment.

import { ApiError, getJson, getMetrics, pause } from "./api.js";
import { lines } from "./charts.js";
import { element, facts, number, table } from "./dom.js";

const SECONDS = 3;
const MAX_POINTS = 200;

export async function overview(view, { signal, report }) {
  const start = performance.now();
  const parts = Object.fromEntries(["health", "service", "workers", "queues"].map((name) => [name, element("div")]));
  const rates = { label: "requests per second", color: "--accent", points: [] };
  const latency = { label: "mean milliseconds", color: "--second", points: [] };
  const canvas = element("canvas", { role: "img", "aria-label": "Requests per second and mean latency over time; the figures are above" });
  view.append(
    element("h1", {}, "Overview"), parts.health,
    element("section", { "aria-label": "Traffic" }, element("h2", {}, "Traffic"),
      element("div", { class: "chart" }, canvas)),
    element("section", { "aria-label": "Workers" }, element("h2", {}, "Workers"), parts.workers),
    element("section", { "aria-label": "Queues" }, element("h2", {}, "Queues by encoder"), parts.queues),
    element("section", { "aria-label": "Service" }, element("h2", {}, "Service"), parts.service),
  );
  const chart = lines(canvas, [rates, latency], "");
  let before = null;
  for (;; await pause(SECONDS, signal)) {
    let replies;
    try {
      replies = await Promise.all([
        getJson("health/ready", signal, [503]), getJson("workers", signal), getMetrics(signal), getJson("info", signal),
      ]);
    } catch (error) {
      if (!(error instanceof ApiError) || [401, 403].includes(error.status)) throw error;
      report(`${error.message} The figures are those of a moment ago.`);
      continue;
    }
    const [ready, workers, metrics, info] = replies;
    const now = (performance.now() - start) / 1000;
    const current = {
      now,
      requests: metrics.get("stitchwork_requests_total") || 0,
      seconds: metrics.get("stitchwork_request_duration_seconds_sum") || 0,
      refusals: metrics.get("errors"),
    };
    const count = before && current.requests - before.requests;
    const rate = before && count / (now - before.now);
    const mean = before && (count ? (1000 * (current.seconds - before.seconds)) / count : 0);
    if (before) {
      rates.points.push([now, rate]);
      latency.points.push([now, mean]);
      for (const line of [rates, latency]) line.points.splice(0, line.points.length - MAX_POINTS);
      if (canvas.isConnected) Chart.getChart(canvas)?.update();
    }
    before = current;
    parts.health.replaceChildren(facts([
      ["Ready", ready.ready ? "yes" : "no", "ready"],
      ["Registry", state(ready.registry)], ["Queue", state(ready.queue)],
      ["Workers", number(ready.workers), "worker-count"],
      ["Waiting jobs", number(workers.waiting), "waiting"],
      ["Oldest job, s", number(workers.oldest_seconds)],
      ["Requests per second", number(rate), "rate"], ["Mean latency, ms", number(mean)],
      ["Requests", number(current.requests, 0), "requests"],
      ["Refused or failed", number(current.refusals, 0), "refusals"],
    ]));
    parts.workers.replaceChildren(table("Live workers", ["Worker", "Device", "Loaded models", "Refused"],
      workers.workers.map((worker) => [worker.worker, worker.device,
        loadedModels(worker), Object.entries(worker.refused || {}).map(([space, reason]) => `${space}: ${reason}`).join("; ") || "–"]),
      "No worker is alive."));
    parts.queues.replaceChildren(table("Jobs by encoder", ["Model", "Data type", "Waiting", "Running", "Oldest, s", "Workers"],
      workers.queues.map((queue) => [queue.model || "none (fits of heads)", queue.model ? queue.dtype : "–", number(queue.waiting), number(queue.running),
        number(queue.oldest_seconds), number(queue.workers)]),
      "No job waits."));
    parts.service.replaceChildren(facts([["Version", info.version, "version"], ["Durability", info.durability]]),
      ...info.warnings.map((text) => element("p", { class: "bad" }, text)));
    report("");
  }
}

/** The models of a worker by name; several encoders may have one, in other settings. */
function loadedModels({ loaded, loaded_models: names }) {
  const known = [...new Set(names.filter(Boolean))];
  const others = loaded.length - names.filter(Boolean).length;
  return [...known, ...(others ? [`${others} that no space has`] : [])].join(", ") || "–";
}

const state = (value) => (value == null ? "unknown" : value ? "up" : "down");
