// The tiles and the six parts of the flow.

import { count, duration, element, minute, none, rate, ratio, text } from "./words.js";

const UNITS = {
  replay: "clicks/s", stream: "sequences/s", train: "learnt/s", index: "new items/s",
  register: "versions/min", serve: "answers/s",
};
const HIGH_LAG = 5000;

function sparkline(values) {
  const width = 120, height = 30;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const known = values.map((v) => v ?? 0);
  const top = Math.max(...known, 1e-9);
  const step = width / Math.max(known.length - 1, 1);
  const points = known.map((v, i) => `${(i * step).toFixed(1)},${(height - 2 - (v / top) * (height - 4)).toFixed(1)}`);
  for (const [tag, extra] of [
    ["polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}`, fill: "var(--accent-soft)" }],
    ["polyline", { points: points.join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": "1.5", "vector-effect": "non-scaling-stroke" }],
  ]) {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(extra)) shape.setAttribute(key, value);
    svg.append(shape);
  }
  return svg;
}

function part(one, recent) {
  const words = { live: "live", done: "done", silent: "no sign of life", absent: "not started", failed: "failed" };
  const lag = one.lag === null ? "" : one.lag === 0 ? "nothing waits" : `${count(one.lag)} waiting`;
  return element(
    "li",
    { class: "part", "data-part": one.name, title: one.problem },
    element(
      "header",
      {},
      element("span", { class: `dot ${one.state}`, role: "img", "aria-label": words[one.state] }),
      one.title,
      element("span", { class: "doing" }, one.state === "live" ? one.doing.toLowerCase() : words[one.state]),
    ),
    element("p", { class: "rate" }, rate(one.name === "register" && one.rate !== null ? 60 * one.rate : one.rate), " ", element("small", {}, UNITS[one.name])),
    element("p", { class: `lag${one.lag > HIGH_LAG ? " high" : ""}` }, lag),
    sparkline(recent.map((point) => point.rates[one.name])),
    element("dl", {}, ...one.figures.flatMap(({ label, value }) => [
      element("dt", {}, label),
      element("dd", {}, typeof value === "number" ? count(value) : String(value).toLowerCase()),
    ])),
  );
}

function big(id, value, unit = "") {
  const place = document.getElementById(id);
  place.replaceChildren(value, ...(unit ? [" ", element("small", {}, unit)] : []));
}

function badge(id, shown, words, kind) {
  const place = document.getElementById(id);
  place.hidden = !shown;
  if (words) text(id, words);
  if (kind !== undefined) place.className = `badge ${kind}`;
}

export function showFlow(flow) {
  const { freshness, serving, queries, quality } = flow;
  document.getElementById("flow-parts").replaceChildren(...flow.parts.map((one) => part(one, flow.recent)));
  const titles = (state) => flow.parts.filter((one) => one.state === state).map((one) => one.title).join(", ");
  const down = [["failed", titles("failed")], ["silent", titles("silent")]].filter(([, some]) => some);
  badge("badge-live", true, down.map(([state, some]) => `${some} ${state}`).join("; ") || "live", down.length ? "bad" : "good");
  badge("badge-version", serving.version !== null, `version ${serving.version}`);
  badge("badge-challenger", serving.challenger !== null, `judging ${serving.challenger}`);
  badge("badge-pinned", serving.pinned);
  text("log-time", freshness.event_time_ms ? `event time ${minute(freshness.event_time_ms)} UTC` : "waiting for the first click");

  big("tile-recall", ratio(quality.window_recall_at_50));
  const popular = quality.popularity_window_recall_at_50;
  text("tile-lift", popular && quality.window_recall_at_50
    ? `${(quality.window_recall_at_50 / popular).toFixed(1)} × popularity`
    : "popularity: " + ratio(popular));
  big("tile-age", ...split(duration(freshness.snapshot_age_seconds)));
  text("tile-age-note", serving.version === null ? "no snapshot yet" : `version ${serving.version} serves`);
  big("tile-behind", ...split(duration(freshness.model_behind_seconds)));
  big("tile-lag", count(freshness.training_lag_records));
  big("tile-queries", rate(queries.per_second), "per second");
  text("tile-latency", queries.p99_ms === null ? "none asked yet" : `p50 ${rate(queries.p50_ms)} · p99 ${rate(queries.p99_ms)} ms`);
  big("tile-items", count(serving.items));
  text("tile-users", `${count(serving.users)} users known`);

  const notice = document.getElementById("notice");
  const problems = [...flow.problems];
  if (serving.last_error) problems.push(`The newest snapshot is not served: ${serving.last_error}`);
  notice.hidden = !problems.length;
  text("notice", problems.join(" · "));
}

function split(words) {
  return words === none ? [none] : words.split(" ");
}

