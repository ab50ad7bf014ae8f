// Two versions side by side.

import { get } from "./api.js";
import { count, element, name, percent, ratio, signed, text } from "./words.js";

const METRICS = [
  ["recall_at_50", "Recall@50"], ["window_recall_at_50", "Recall@50, last queries"], ["ndcg_at_50", "NDCG@50"],
  ["long_tail_recall_at_50", "Recall@50, long tail"], ["cold_user_recall_at_50", "Recall@50, new users"],
  ["cold_item_recall_at_50", "Recall@50, new items"], ["coverage_at_50", "Coverage@50"],
  ["codes_in_use", "Codes in use"], ["perplexity", "Perplexity"], ["indexed_items", "Items"],
];
let known = "";

export function offerVersions({ versions }) {
  const present = versions.filter((v) => v.on_disk).map((v) => v.version);
  const signature = present.join(",");
  if (signature === known) return false;
  const first = known === "";
  known = signature;
  for (const [id, fallback] of [["compare-a", present.at(-2)], ["compare-b", present.at(-1)]]) {
    const choice = document.getElementById(id);
    const before = first ? "" : choice.value;
    choice.replaceChildren(...[...present].reverse().map((v) => element("option", { value: v }, `version ${v}`)));
    choice.value = present.includes(Number(before)) && before !== "" ? before : String(fallback ?? present.at(-1) ?? "");
  }
  return first && present.length > 1;
}

function table(id, head, rows) {
  document.getElementById(id).replaceChildren(
    element("thead", {}, element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : element("td", {}, cell)))))),
  );
}

function change(a, b) {
  if (a === null || b === null || a === undefined || b === undefined) return element("td", {}, "");
  return element("td", { class: b > a ? "up" : b < a ? "down" : "" }, Number.isInteger(a) && Number.isInteger(b) ? (b - a > 0 ? "+" : "") + count(b - a) : signed(b - a));
}

function figure(value) {
  return value === null || value === undefined ? "" : Math.abs(value) >= 10 ? count(value) : ratio(value, 4);
}

function sample(one, a, b) {
  const ids = [new Set(one.a.map((i) => i.item_id)), new Set(one.b.map((i) => i.item_id))];
  const column = (title, items, other) => element("div", {}, element("h3", {}, title), element("ol", {}, ...items.map((item) => element("li", { class: other.has(item.item_id) ? "" : "only", title: name(item) }, name(item)))));
  const clicked = one.history.map(name).join(" · ") || "nothing yet";
  return element("div", { class: "sample" },
    element("p", { class: "quiet" }, `Somebody who clicked: ${clicked}. ${one.in_both} of ${one.a.length} items in both.`),
    element("div", { class: "cols" }, column(`version ${a}`, one.a, ids[1]), column(`version ${b}`, one.b, ids[0])));
}

export async function compare(a, b) {
  text("compare-state", "comparing …");
  let found;
  try {
    found = await get(`/v1/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}&k=8`);
  } catch (error) {
    text("compare-state", error.message);
    return;
  }
  text("compare-state", "");
  document.getElementById("compare-result").hidden = false;
  const p = found.paired;
  text("compare-verdict", p
    ? `On the same ${count(p.queries)} events of ${count(p.users)} users: recall@50 ${ratio(p.recall_a, 4)} → ${ratio(p.recall_b, 4)}, difference ${signed(p.difference)} [${signed(p.low)}, ${signed(p.high)}]${p.high < 0 ? ": worse" : p.low > 0 ? ": better" : ": no difference that these events could show"}.`
    : "No recent events are remembered: the versions are compared by what they are, not by what they answer.");
  const metrics = new Map(found.metrics.map((m) => [m.name, m]));
  table("compare-metrics", ["", `${a}`, `${b}`, "change"], METRICS.filter(([key]) => metrics.has(key)).map(([key, label]) => {
    const m = metrics.get(key);
    return [label, figure(m.a), figure(m.b), change(m.a, m.b)];
  }));
  table("compare-codes", ["code", "moved", "churn", "traffic", "items"], found.codes.slice(0, 10).map((c) => [String(c.code), ratio(c.movement, 2), ratio(c.churn, 2), percent(c.traffic), `${c.items_a} → ${c.items_b}`]));
  text("compare-items", `${count(found.items.moved)} of ${count(found.items.in_both)} (${percent(found.items.moved_share)}); ${count(found.items.new)} new.`);
  document.getElementById("compare-examples").replaceChildren(...found.items.examples.map((e) => element("li", {}, e.title, " ", element("span", { class: "tag" }, `${e.from} → ${e.to}`))));
  document.getElementById("compare-samples").replaceChildren(...found.samples.map((one) => sample(one, a, b)));
}
