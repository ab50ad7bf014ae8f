// Prequential recall of the model and of popularity over event time.

import { Chart, axis, safe, tooltip } from "./charts.js";
import { date, ratio, text } from "./words.js";

let chart = null;

function options({ model, popularity }, style, narrow) {
  const line = (name, points, colour, extra = {}) => ({
    name, type: "line", showSymbol: points.length < 3, symbolSize: 5, smooth: 0.2, sampling: "lttb",
    lineStyle: { width: 2.4, color: colour }, itemStyle: { color: colour },
    data: points.map((p) => [p[0], p[1]]), ...extra,
  });
  return {
    grid: { left: 8, right: 14, top: 34, bottom: 8, containLabel: true },
    legend: { top: 0, left: 0, icon: "roundRect", itemHeight: 4, itemWidth: 18, textStyle: { color: style.ink } },
    tooltip: tooltip(style, {
      trigger: "axis",
      formatter: (rows) => [date(rows[0].value[0]), ...rows.map((r) => `${r.marker} ${safe(r.seriesName)} <b>${ratio(r.value[1], 4)}</b>`)].join("<br>"),
    }),
    xAxis: axis(style, { type: "time", splitLine: { show: false }, splitNumber: narrow ? 3 : 6 }),
    yAxis: axis(style, { type: "value", min: 0, axisLine: { show: false } }),
    series: [
      line("SPARC", model.points, style.accent, { areaStyle: { color: style.accent, opacity: 0.08 } }),
      line("popularity", popularity.points, style.warm, { lineStyle: { width: 2, type: "dashed", color: style.warm } }),
    ],
  };
}

export function showQuality(found) {
  chart ??= new Chart("quality-chart", options);
  chart.show(found);
  const last = found.model.points.at(-1);
  // The peer may have seen more of the log than the trainer: compare at the same event time.
  const peer = last && (found.popularity.points.findLast((p) => p[0] <= last[0]) ?? found.popularity.points[0]);
  text("quality-words", last && peer
    ? `At ${date(last[0])}: ${ratio(last[1], 4)} against ${ratio(peer[1], 4)} of popularity; since the beginning ${ratio(last[2], 4)} against ${ratio(peer[2], 4)}.`
    : "The first answers come once a snapshot serves.");
}
