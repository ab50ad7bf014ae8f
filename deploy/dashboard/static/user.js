// A user's interest distribution after every click, and the answer now.

import { get } from "./api.js";
import { Chart, axis, palette, safe, tooltip } from "./charts.js";
import { count, date, element, name, percent, shortened, text, under } from "./words.js";

let chart = null;
let asked = 0;

function options(found, style, narrow) {
  const steps = found.steps;
  const hatched = { symbol: "rect", dashArrayX: [1, 0], dashArrayY: [2, 5], rotation: Math.PI / 4, color: "rgba(255,255,255,.5)" };
  const band = (label, values, colour, explored) => ({
    name: label, type: "line", stack: "all", step: false, smooth: 0.15, symbol: "none",
    lineStyle: { width: 0 }, itemStyle: { color: colour }, areaStyle: { color: colour, opacity: 0.82, ...(explored ? { decal: hatched } : {}) },
    data: values, emphasis: { focus: "series" },
  });
  const label = (c) => shortened(`${c.code} ${c.label}`, narrow ? 18 : 26);
  return {
    grid: { left: 8, right: 14, top: narrow ? 100 : 62, bottom: 26, containLabel: true },
    legend: { top: 0, left: 0, icon: "roundRect", itemWidth: 12, itemHeight: 10, itemGap: 10, textStyle: { color: style.ink, fontSize: 11 } },
    tooltip: tooltip(style, {
      trigger: "axis",
      formatter: (rows) => {
        const step = steps[rows[0].dataIndex];
        const head = step.item ? `${date(step.time_ms)} clicked <b>${safe(shortened(name(step.item), 40))}</b> (code ${step.item.code})` : "before the first click";
        return [head, ...rows.filter((r) => r.value >= 0.01).sort((a, b) => b.value - a.value).slice(0, 6).map((r) => `${r.marker} ${safe(r.seriesName)} <b>${percent(r.value)}</b>`)].join("<br>");
      },
    }),
    xAxis: axis(style, { type: "category", boundaryGap: false, data: steps.map((_, i) => (i === 0 ? "prior" : String(i))), name: "clicks", nameLocation: "middle", nameGap: 26, splitLine: { show: false } }),
    yAxis: axis(style, { type: "value", min: 0, max: 1, axisLabel: { color: style.quiet, fontSize: 11, formatter: (v) => `${Math.round(v * 100)} %` }, axisLine: { show: false } }),
    series: [
      ...found.codes.map((c, i) => band(label(c), steps.map((s) => s.probabilities[i]), palette[i % palette.length], !c.touched)),
      band("all others", steps.map((s) => Math.max(0, s.others)), style.line, false),
    ],
  };
}

function row(item) {
  return element(
    "li", {},
    element("span", {}, name(item), element("br"), element("span", { class: "under" }, under(item))),
    element("span", { class: "num" }, element("span", { class: `tag${item.explored ? " explored" : ""}`, title: item.explored ? "explored: never clicked in this code" : "a known interest" }, item.explored ? `explores ${item.code}` : `code ${item.code}`)),
  );
}

export async function showUser(id) {
  const mine = ++asked;
  document.getElementById("user-id").value = String(id);
  const found = await get(`/v1/users/${encodeURIComponent(id)}/interests?k=15`);
  if (mine !== asked) return;
  chart ??= new Chart("user-chart", options);
  chart.show(found);
  document.getElementById("user-answer").replaceChildren(...found.answer.map(row));
  const explored = found.searched.filter((c) => c.explored);
  const of = found.answer.filter((item) => item.explored).length;
  text("user-words", found.known
    ? `${count(found.clicks)} clicks. ${found.searched.length} codes were searched, ${explored.length} of them explored with together ${percent(explored.reduce((sum, c) => sum + c.probability, 0))} of the probability; ${of} of ${found.answer.length} items come from them.`
    : "This user is unknown: the interest prior answers.");
}

export function showRecentUsers({ users }) {
  const place = document.getElementById("user-recent");
  const chips = [...users].sort((a, b) => b.clicks - a.clicks).slice(0, 8);
  place.replaceChildren(...chips.map((u) => element("button", { type: "button", class: "chip", onclick: () => showUser(u.user_id) }, `${u.user_id} · ${count(u.clicks)} clicks`)));
  return chips[0]?.user_id ?? null;
}
