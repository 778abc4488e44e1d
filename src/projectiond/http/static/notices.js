// The notices above everything: what concerns everybody, and whether the picture is live.

import { byId, element, setAttribute, setText, show } from "./dom.js";
import { clock, duration, number, plural } from "./words.js";

// A stream that ends and is opened again is nobody's business.
const GRACE_SECONDS = 2;

let wasWell = true;

const notices = new Map();

// One notice of each kind, changed in place; says whether it is new.
function put(kind, tone, text, code = "") {
  let known = notices.get(kind);
  if (!text) {
    known?.node.remove();
    notices.delete(kind);
    return false;
  }
  const isNew = !known;
  if (isNew) {
    const words = element("span");
    const remedy = element("code", { hidden: true });
    known = { node: element("p", { class: "notice" }, words, remedy), words, remedy };
    notices.set(kind, known);
    byId("notices").append(known.node);
  }
  known.node.className = `notice ${tone}`;
  setText(known.words, text);
  setText(known.remedy, code);
  show(known.remedy, Boolean(code));
  return isNew;
}

// Called once a second, for ages grow; `announce` has something said to who does not see it.
export function drawNotices(live, announce) {
  const notice = (kind, tone, text, code) => put(kind, tone, text, code) && kind !== "hold" && announce(text);
  const { store } = live;
  const lostFor = live.lostAt === null ? 0 : Date.now() / 1000 - live.lostAt;
  const isLost = lostFor > GRACE_SECONDS || Boolean(live.refusal);
  const age = live.age();
  const old = age === null ? "" : ` What you see is ${duration(Math.round(age))} old.`;
  const isAway = Boolean(store) && !store.is_answering;
  const isWell = Boolean(store) && !isLost && !isAway;
  const why = live.refusal || `No connection to the daemon since ${clock(live.lostAt)}`;
  notice("lost", "bad", isLost ? `${why}; it is tried again and again.${old}` : "");
  notice("away", "bad", isAway && !isLost ? `The database does not answer: ${store.error}.${old}` : "");
  const hold = isLost ? null : store?.hold;
  const others = hold?.more ? ` and ${plural(hold.more, "other", "others")}` : "";
  const since = hold?.seconds ? ` for ${duration(hold.seconds)}` : "";
  notice(
    "hold",
    "warn",
    hold
      ? `Events after ${number(hold.position)} wait${since}: an open transaction may still append before them. It is held by ${hold.holders.join(", ")}${others}. Should it never end by itself: `
      : "",
    hold?.remedies.join("; ") ?? "",
  );
  const faults = (isLost ? [] : store?.faults ?? []).map((fault) => {
    const who = fault.kind === "projection" ? fault.name : fault.kind === "worker" ? `worker ${fault.name}` : "the daemon";
    return `${who}: ${fault.reason} (for ${duration(fault.seconds)})`;
  });
  notice("faults", "bad", faults.join(". "));
  notice("draining", "warn", !isLost && store?.is_draining ? "This daemon has been told to stop, and finishes what it has in hand." : "");
  const idle = (isLost || store?.is_draining ? [] : store?.workers ?? []).filter((worker) => !worker.is_ready);
  notice(
    "idle",
    "warn",
    idle.length
      ? `Not at work: ${idle.map((worker) => `worker ${worker.number}${worker.last_end ? ` (the last ended with ${worker.last_end})` : ""}`).join(", ")}.`
      : "",
  );
  notice("differences", "warn", isLost ? "" : live.roster.differences.map((text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`).join(" "));
  const state = isLost ? "lost" : !store ? "waiting" : isAway ? "away" : "live";
  setAttribute(byId("connection"), "data-state", state);
  const words = { lost: "no connection", waiting: "connecting …", away: "database away", live: "live" };
  setText(byId("connection-text"), state === "live" && age > 3 ? `live, ${duration(Math.round(age))} old` : words[state]);
  document.body.classList.toggle("is-old", !isWell && Boolean(store));
  if (store && isWell && !wasWell) announce("The picture is live again");
  if (store) wasWell = isWell;
}
