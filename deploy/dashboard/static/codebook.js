// The map of the codebook, and the items of the chosen code.

import { get } from "./api.js";
import { Chart, safe, tooltip } from "./charts.js";
import { count, element, name, ratio, shortened, under } from "./words.js";

const LABELLED = 18;
const CALM = 0.5; // the scale reaches at least so far, so that little drift looks like little
let chart = null;
let chosen = null;
let map = null;

function reach(values) {
  const low = Math.min(...values), high = Math.max(...values), room = 0.1 * (high - low || 1);
  return { min: low - room, max: high + room };
}

function options(found, style, narrow) {
  const used = found.codes.filter((c) => c.items > 0);
  const most = Math.max(...used.map((c) => c.items), 1);
  const drifts = used.map((c) => c.movement + c.churn);
  const top = Math.max(...drifts, CALM);
  const [xs, ys] = ["x", "y"].map((key) => reach(used.map((c) => c[key])));
  const named = new Set([...used].sort((a, b) => b.clicks - a.clicks).slice(0, narrow ? 7 : LABELLED).map((c) => c.code));
  return {
    grid: { left: 10, right: 10, top: 14, bottom: 46 },
    xAxis: { show: false, ...xs },
    yAxis: { show: false, ...ys },
    tooltip: tooltip(style, {
      formatter: ({ data }) => [
        `<b>code ${data.of.code}</b> ${safe(data.of.label)}`,
        `${count(data.of.items)} items, ${count(data.of.clicks)} clicks`,
        `centroid moved ${ratio(data.of.movement)} radii, churn ${ratio(data.of.churn)}`,
      ].join("<br>"),
    }),
    visualMap: {
      min: 0, max: top, dimension: 3, calculable: false, orient: "horizontal", left: "center", bottom: 0,
      itemWidth: 10, itemHeight: narrow ? 90 : 150, text: [`drift ${top.toFixed(2)}`, "0"], textStyle: { color: style.quiet, fontSize: 11 },
      inRange: { color: ["#2a9d8f", "#8ab17d", "#e9c46a", "#f4a261", "#d1495b"] },
    },
    series: [{
      type: "scatter",
      data: used.map((c) => ({
        value: [c.x, c.y, c.items, c.movement + c.churn], of: c,
        symbolSize: (narrow ? 8 : 12) + (narrow ? 26 : 42) * Math.sqrt(c.items / most),
        itemStyle: { opacity: chosen === c.code ? 1 : 0.78, borderColor: chosen === c.code ? style.ink : style.card, borderWidth: chosen === c.code ? 3 : 1 },
        label: { show: named.has(c.code) || chosen === c.code, formatter: shortened(c.label || `code ${c.code}`, narrow ? 14 : 22), position: "top", color: style.ink, fontSize: 11, textBorderColor: style.card, textBorderWidth: 2 },
      })),
      labelLayout: { hideOverlap: true },
      emphasis: { scale: 1.15 },
    }],
  };
}

async function choose(code) {
  chosen = code;
  const one = map.codes.find((c) => c.code === code);
  document.getElementById("codebook-choice").value = String(code);
  chart.draw();
  document.getElementById("codebook-facts").replaceChildren(...[
    ["items", count(one.items)], ["clicks", count(one.clicks)],
    ["moved", `${ratio(one.movement, 2)} r`], ["churn", ratio(one.churn, 2)],
  ].flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)]));
  const found = await get(`/v1/codes/${code}/items?limit=60`);
  if (chosen !== code) return;
  document.getElementById("codebook-items").replaceChildren(...found.items.map((item) => element(
    "li", {},
    element("span", {}, name(item), element("br"), element("span", { class: "under" }, under(item))),
    element("span", { class: "num" }, count(item.clicks), element("br"), element("span", { class: "under" }, "clicks")),
  )));
}

export function showCodebook(found) {
  const first = map === null;
  map = found;
  if (first) {
    chart = new Chart("codebook-chart", options);
    chart.chart.on("click", ({ data }) => data?.of && choose(data.of.code));
    document.getElementById("codebook-choice").addEventListener("change", (event) => choose(Number(event.target.value)));
  }
  chart.show(found);
  const used = [...found.codes].filter((c) => c.items > 0).sort((a, b) => b.clicks - a.clicks);
  document.getElementById("codebook-choice").replaceChildren(...used.map((c) => element("option", { value: c.code }, shortened(`${c.code} · ${c.label}`, 48))));
  if (used.length) choose(used.some((c) => c.code === chosen) ? chosen : used[0].code);
}

export function codebookVersion() {
  return map?.version ?? null;
}
