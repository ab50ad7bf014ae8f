// The split that runs: who is in which arm, and what was clicked of what each answered.

import { count, element, percent, shortened } from "./words.js";

function share(value, interval) {
  if (value === null || value === undefined) return "";
  const told = percent(value, 2);
  return interval ? `${told} (${percent(interval[0], 2)} to ${percent(interval[1], 2)})` : told;
}

function row(one, arm) {
  const told = arm ? [arm.version === null ? "" : `version ${arm.version}`, ...Object.entries(arm.search).map(([key, value]) => `${key} ${value}`), arm.shadow ? "into the log only" : ""] : ["as configured"];
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, one.arm),
    element("td", {}, shortened(told.filter(Boolean).join(", "), 60)),
    element("td", {}, arm ? percent(arm.share, 0) : ""),
    element("td", {}, count(one.users)),
    element("td", {}, count(one.answers)),
    element("td", {}, share(one.rate, one.interval)),
    element("td", {}, share(one.difference, one.difference_interval)),
  );
}

export function showSplit(found) {
  document.getElementById("split").hidden = found.split === null;
  if (found.split === null) return;
  document.getElementById("split-title").textContent = `Split ${found.split.name}`;
  document.getElementById("split-problem").textContent = found.problem;
  const head = ["arm", "answers by", "share", "users", "answers", "of its items clicked within a day", "more than default"];
  const arms = new Map(found.split.arms.map((arm) => [arm.name, arm]));
  document.getElementById("split-arms").replaceChildren(
    element("thead", {}, element("tr", {}, ...head.map((word) => element("th", { scope: "col" }, word)))),
    element("tbody", {}, ...found.arms.map((one) => row(one, arms.get(one.arm)))),
  );
}
