// The roster: which worker of which daemon is connected, and what it runs.

import { byId, element, setText } from "./dom.js";
import { moment, plural } from "./words.js";

let drawn = null;
let known = null;

export function drawRoster(live) {
  if (!live.store || (drawn === live.roster && known === live.store.live_workers)) return;
  drawn = live.roster;
  known = live.store.live_workers;
  byId("roster").replaceChildren(...drawn.workers.map(rowOf));
  const unknown = Math.max(0, (known ?? 0) - drawn.workers.length);
  const who = `${plural(unknown, "worker is", "workers are")} not known by name`;
  const why = "an earlier version, or the daemon’s role may not read projection_workers";
  setText(byId("roster-note"), unknown ? `${who}: ${why}.` : known ? "" : "No worker of any daemon is connected.");
}

function rowOf(worker) {
  const more = worker.runs_more ? `, and ${plural(worker.runs_more, "other", "others")}` : "";
  const count = worker.runs.length + worker.runs_more;
  const runs = count ? `${worker.runs.join(", ")}${more}` : "nothing";
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, worker.host),
    element("td", { class: "number" }, String(worker.process_id)),
    element("td", { class: "number" }, String(worker.worker)),
    element("td", {}, worker.version),
    element("td", { class: "time" }, moment(worker.since)),
    element("td", { class: "number" }, `${count} of ${worker.can_run}`),
    element("td", {}, runs),
  );
}
