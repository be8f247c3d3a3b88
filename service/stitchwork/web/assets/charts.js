// Charts, in the colors of the theme.

const charts = new Set();

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw(canvas, build) {
  const entry = { canvas, build, chart: new Chart(canvas, build()) };
  charts.add(entry);
  return entry.chart;
}

/** Draw all charts again, in the colors of another theme; those that were removed are forgotten. */
export function redraw() {
  for (const entry of [...charts]) {
    entry.chart.destroy();
    charts.delete(entry);
    if (entry.canvas.isConnected) draw(entry.canvas, entry.build);
  }
}

/** Remove all charts. */
export function clear() {
  for (const { chart } of charts) chart.destroy();
  charts.clear();
}

function axis(text) {
  return {
    title: { display: Boolean(text), text, color: color("--muted") },
    ticks: { color: color("--muted") },
    grid: { color: color("--line") },
  };
}

function options(x, y, more = {}) {
  return {
    animation: false,
    maintainAspectRatio: false,
    scales: { x: axis(x), y: axis(y) },
    ...more,
    plugins: {
      legend: { labels: { color: color("--text"), usePointStyle: true, filter: (item) => item.text !== "" } },
      ...more.plugins,
    },
  };
}

/**
 * Points of several groups, [{label, color, style, points: [[x, y]], names}], and lines between
 * points, [[[x, y], [x, y]]].
 */
export function scatter(canvas, groups, x, y, joins = []) {
  const gap = { x: NaN, y: NaN };
  return draw(canvas, () => ({
    type: "scatter",
    data: {
      datasets: [...groups.map((group) => ({
        label: group.label,
        data: group.points.map(([px, py]) => ({ x: px, y: py })),
        pointStyle: group.style,
        pointRadius: 4,
        borderColor: color(group.color),
        backgroundColor: color(group.color) + "99",
      })), ...(joins.length ? [{
        type: "line",
        label: "",
        data: joins.flatMap(([from, to]) => [{ x: from[0], y: from[1] }, { x: to[0], y: to[1] }, gap]),
        borderColor: color("--muted"),
        borderWidth: 1,
        pointRadius: 0,
        pointHitRadius: 0,
      }] : [])],
    },
    options: options(x, y, {
      plugins: {
        tooltip: {
          callbacks: { label: (item) => `${groups[item.datasetIndex].label}: ${groups[item.datasetIndex].names[item.dataIndex]}` },
        },
      },
    }),
  }));
}

/** Bars by their position. */
export function bars(canvas, label, values, x, y) {
  return draw(canvas, () => ({
    type: "bar",
    data: {
      labels: values.map((_, i) => i + 1),
      datasets: [{ label, data: values, backgroundColor: color("--accent") }],
    },
    options: options(x, y),
  }));
}

/** Lines over time: [{label, color, points: [[seconds, value]]}], whose points may grow. */
export function lines(canvas, series, y) {
  return draw(canvas, () => ({
    type: "line",
    data: {
      datasets: series.map((line) => ({
        label: line.label,
        data: line.points,
        parsing: { xAxisKey: "0", yAxisKey: "1" },
        borderColor: color(line.color),
        backgroundColor: color(line.color),
        pointRadius: 2,
      })),
    },
    options: options("seconds", y, {
      scales: { x: { type: "linear", ...axis("seconds since the page was opened") }, y: { beginAtZero: true, ...axis(y) } },
    }),
  }));
}
