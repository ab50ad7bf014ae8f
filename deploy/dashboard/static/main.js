// What is asked for, how often, and what happens when it does not come.

import { Refused, get } from "./api.js";
import { codebookVersion, showCodebook } from "./codebook.js";
import { compare, offerVersions } from "./compare.js";
import { showFlow } from "./flow.js";
import { showQuality } from "./quality.js";
import { showSplit } from "./split.js";
import { showTimeline } from "./timeline.js";
import { showRecentUsers, showUser } from "./user.js";
import { text } from "./words.js";

let userShown = false;

async function flow() {
  const found = await get("/v1/flow");
  showFlow(found);
  if (found.serving.version !== null && found.serving.version !== codebookVersion()) {
    showCodebook(await get("/v1/codebook"));
  }
}

async function quality() {
  showQuality(await get("/v1/quality"));
}

async function timeline() {
  const found = await get("/v1/timeline");
  showTimeline(found);
  if (offerVersions(found)) {
    compare(document.getElementById("compare-a").value, document.getElementById("compare-b").value);
  }
}

async function split() {
  showSplit(await get("/v1/split"));
}

async function users() {
  const first = showRecentUsers(await get("/v1/users?limit=40"));
  if (!userShown && first !== null && codebookVersion() !== null) {
    userShown = true;
    await showUser(first);
  }
}

function trouble(error) {
  // 503: no snapshot yet, which the page shows by itself; 429: the next look will do.
  if (error instanceof Refused && [429, 503].includes(error.status)) return;
  const live = document.getElementById("badge-live");
  live.className = "badge bad";
  text("badge-live", error instanceof Refused ? error.message : "no connection");
}

async function every(seconds, what) {
  for (;;) {
    if (!document.hidden) await what().catch(trouble);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

document.getElementById("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  userShown = true;
  showUser(document.getElementById("user-id").value.trim()).catch(trouble);
});
document.getElementById("compare-form").addEventListener("submit", (event) => {
  event.preventDefault();
  compare(document.getElementById("compare-a").value, document.getElementById("compare-b").value);
});

every(2, flow);
every(5, quality);
every(5, timeline);
every(7, users);
every(60, split);
