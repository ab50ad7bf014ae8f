// Versions by their recall and what was decided about each, and the log of decisions.

import { Chart, axis, safe, tooltip } from "./charts.js";
import { clock, count, date, element, ratio } from "./words.js";

const SHAPES = { promoted: "circle", first: "circle", released: "circle", pinned: "diamond", kept: "rect", superseded: "emptyCircle" };
let chart = null;
let shown = "";

function colours(style) {
  return { promoted: style.good, first: style.good, released: style.good, pinned: style.accent, kept: style.warm, superseded: style.quiet };
}

function options(found, style) {
  const by = colours(style);
  const versions = found.versions.filter((v) => v.recall_at_50 !== null || v.action !== null);
  return {
    grid: { left: 8, right: 14, top: 16, bottom: 8, containLabel: true },
    tooltip: tooltip(style, {
      formatter: ({ data }) => {
        const v = data.version;
        return [
          `<b>version ${v.version}</b>${v.aliases.length ? ` · ${safe(v.aliases.join(", "))}` : ""}`,
          `${safe(v.action ?? "not decided")}${v.trigger ? `, built because of: ${safe(v.trigger)}` : ""}`,
          `trained on ${count(v.trained_events)} events until ${date(v.trained_until_ms)}`,
          `recall@50 ${ratio(v.recall_at_50, 4)}`,
          `new lists ${safe(v.new_lists || "not told")}${v.moved_items === null ? "" : `, ${count(v.moved_items)} items moved`}`,
          ...(v.newer ? [safe(v.newer)] : []),
        ].join("<br>");
      },
    }),
    xAxis: axis(style, { type: "category", data: versions.map((v) => v.version), splitLine: { show: false }, name: "" }),
    yAxis: axis(style, { type: "value", scale: true, axisLine: { show: false }, splitNumber: 3, boundaryGap: ["12%", "18%"] }),
    series: [{
      type: "line", lineStyle: { color: style.line, width: 2 }, symbolSize: 11,
      data: versions.map((version) => ({
        value: version.recall_at_50 ?? "-", version,
        symbol: SHAPES[version.action] ?? "emptyCircle",
        symbolSize: version.serving ? 20 : 11,
        itemStyle: { color: by[version.action] ?? style.quiet, ...(version.serving ? { borderColor: style.ink, borderWidth: 2.5 } : {}) },
        label: { show: version.serving, formatter: "serves", position: "left", distance: 10, color: style.ink, fontSize: 11 },
      })),
    }],
  };
}

function line(d) {
  const words = { first: "served first", promoted: "promoted", kept: "not promoted", superseded: "overtaken", pinned: "pinned", released: "released" };
  const who = { judge: "by the judge", person: "by a person", registry: "in the registry" };
  return element(
    "li",
    {},
    element("span", {}, element("b", {}, `version ${d.version} `), element("span", { class: `act ${d.action}` }, words[d.action] ?? d.action), ` ${who[d.by] ?? d.by}`),
    element("time", { datetime: new Date(d.at_ms).toISOString() }, clock(d.at_ms)),
    element("p", { class: "why" }, d.why),
  );
}

export function showTimeline(found) {
  const signature = JSON.stringify([found.versions, found.decisions.length]);
  if (signature === shown) return;
  shown = signature;
  chart ??= new Chart("timeline-chart", options);
  chart.show(found);
  const list = document.getElementById("timeline-list");
  list.replaceChildren(...found.decisions.slice(-40).reverse().map(line));
}
