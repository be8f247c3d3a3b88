// Anchor sets, their spaces, and how well these translate into each other.

import { getAll, getJson, getReport } from "./api.js";
import { bars, clear, scatter } from "./charts.js";
import { choice, element, facts, number, table } from "./dom.js";

const MARK = { good: "●", fair: "◐", poor: "○" };

export async function spaces(view, context) {
  const { signal } = context;
  const [info, sets] = await Promise.all([getJson("info", signal), getAll("anchor-sets", signal)]);
  view.append(element("h1", {}, "Spaces"));
  if (!sets.length) {
    view.append(element("p", {}, "No anchor set is registered. ", element("a", { href: "#registration" }, "Register the first"), ", or follow the ", element("a", { href: "guide/quickstart.html" }, "quickstart"), "."));
    return;
  }
  const all = await getAll("spaces", signal);
  const selected = { set: sets[0].id, bridge: info.default_bridge };
  const content = element("div");
  const show = () => showSet(content, context, selected, all).catch(context.fail);
  view.append(element("div", { class: "fields" },
    choice("Anchor set", "set", sets.map((set) => set.id), selected.set, (id) => { selected.set = id; show(); }),
    choice("Bridge", "bridge", info.bridges, selected.bridge, (id) => { selected.bridge = id; show(); })), content);
  await showSet(content, context, selected, all);
}

async function showSet(content, context, { set, bridge }, all) {
  clear();
  const own = all.filter((space) => space.anchor_set === set);
  const comparison = element("section", { "aria-label": "Compatibility" }, element("h2", {}, "Compatibility"));
  const details = element("div");
  content.replaceChildren(
    element("section", { "aria-label": "Spaces of the set", id: "spaces-of-set" }, element("h2", {}, `Spaces on ${set}`),
      table("Spaces", ["Space", "Dimensions", "Rank", "Condition", "Norm", "Agreement", "Warnings"],
        own.map((space) => [
          element("button", { type: "button", onclick: () => showPair(details, context, space.id, null, bridge).catch(context.fail) }, space.id),
          number(space.dim), number(space.rank), number(space.condition_number, 1),
          `${number(space.norm_mean)} ± ${number(space.norm_std)}`, number(space.agreement), (space.warnings || []).join("; ") || "–",
        ]), "No space of this set is ready.")),
    comparison, details);
  if (own.length < 2) {
    comparison.append(element("p", {}, "Two spaces are needed."));
    return;
  }
  const names = [];
  const pairs = new Map();
  for (let cursor = null; ;) {
    const query = new URLSearchParams({ anchor_set: set, bridge, ...(cursor && { cursor }) });
    const page = await getReport(`compatibility?${query}`, context.signal, ({ done, total }) =>
      context.report(`Comparing spaces: ${done} of ${total} pairs`));
    if (!names.length) names.push(...page.spaces.map((space) => space.id));
    for (const pair of page.pairs) pairs.set(JSON.stringify([pair.source, pair.target]), pair);
    if (!(cursor = page.cursor)) break;
  }
  context.report("");
  const select = (pair, button) => {
    for (const other of comparison.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
    return showPair(details, context, pair.source, pair, bridge).catch(context.fail);
  };
  comparison.append(element("p", {}, "Similarity of held-out anchors from the space of the row to the space of the column: ● good, ◐ fair, ○ poor. Select a pair to see its anchors."),
    heatMap(names, pairs, select));
}

function heatMap(names, pairs, select) {
  const cell = (source, target) => {
    const pair = pairs.get(JSON.stringify([source, target]));
    if (!pair) return element("td");
    const text = `${source} to ${target}: ${pair.verdict}, similarity ${number(pair.similarity)}, recall ${number(pair.recall_at_1)}. ${pair.reason}`;
    const button = element("button", { type: "button", title: text, "aria-label": text, "aria-pressed": "false" },
      `${MARK[pair.verdict]} ${number(pair.similarity)}`);
    button.style.setProperty("--share", Math.max(0, pair.similarity ?? 0));
    button.addEventListener("click", () => select(pair, button));
    return element("td", {}, button);
  };
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Compatibility of pairs" },
    element("table", { class: "heat" },
      element("caption", {}, "Compatibility of pairs"),
      element("thead", {}, element("tr", {}, element("td", {}, "from \\ to"), names.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, names.map((source) =>
        element("tr", {}, element("th", { scope: "row" }, source), names.map((target) => cell(source, target)))))));
}

async function showPair(details, context, source, pair, bridge) {
  clear();
  const query = new URLSearchParams({ bridge, ...(pair && { target: pair.target }) });
  details.replaceChildren();
  context.report("Computing the report on the anchors…");
  const report = await getReport(`spaces/${encodeURIComponent(source)}/anchors?${query}`, context.signal, () => {});
  context.report("");
  const title = pair ? `${source} to ${pair.target}` : source;
  const canvas = (label) => element("canvas", { role: "img", "aria-label": label });
  const before = canvas(`Anchors of ${title}, each space on its own principal components`);
  const after = canvas(`Anchors of ${source} after translation, over those of the target`);
  const spectrum = canvas(`Variance of the anchors of ${source} by principal component`);
  const map = report.map;
  const box = (name, node, text) => element("section", { "aria-label": name }, element("h2", {}, name),
    element("div", { class: "chart" }, node), text && element("p", {}, text));
  const curve = report.learning_curve;
  details.append(...[
    element("section", { "aria-label": "Anchors", id: "anchors" }, element("h2", {}, `Anchors of ${title}`),
      pair && element("p", { id: "verdict" }, `${pair.verdict}: ${pair.reason}`),
      facts([
        ["Anchors", number(report.anchors), "anchor-count"],
        ...(pair ? [["Similarity", number(pair.similarity), "similarity"], ["Recall at 1", number(pair.recall_at_1), "recall"], ["Agreement", number(pair.agreement)]] : []),
        ["Equal anchors", number(report.duplicates.exact.length), "duplicates"], ["Nearly equal", number(report.duplicates.near.length)],
        ["Enough anchors", curve.enough ? "yes" : "no"],
      ]),
      element("p", {}, curve.reason),
      report.duplicates.exact.length ? element("p", { class: "bad" }, `Equal: ${report.duplicates.exact.map((group) => group.join(" = ")).join("; ")}`) : null,
      report.misaligned?.length ? table("Anchors whose rows do not seem to be of one input", ["Anchor", "Probability", "Cosine", "Fits"],
        report.misaligned.map((row) => [String(row.anchor), number(row.probability), number(row.cosine), String(row.fits)]), "") : null),
    element("div", { class: "columns" },
      box("Before translation", before),
      map.translated ? box("After translation", after, "A line joins each translated anchor with its own row in the target: where the bridge holds, lines are short.") : null,
      box("Spectrum", spectrum)),
  ].filter(Boolean));
  const names = map.anchors;
  const groups = [{ label: source, color: "--accent", style: "circle", points: map.source, names }];
  if (map.target) groups.push({ label: pair.target, color: "--second", style: "triangle", points: map.target, names });
  scatter(before, groups, "first component", "second component");
  if (map.translated) {
    scatter(after, [
      { label: `${source}, translated`, color: "--accent", style: "circle", points: map.translated, names },
      { label: pair.target, color: "--second", style: "triangle", points: map.target, names },
    ], "first component", "second component", map.translated.map((point, i) => [point, map.target[i]]));
  }
  bars(spectrum, "share of the variance", report.spectrum, "principal component", "share");
}
