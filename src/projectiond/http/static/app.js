// The page: what is of the whole, and the parts put together.

import { byId, element, setAttribute, setText, shape, show } from "./dom.js";
import { Live } from "./live.js";
import { Panel } from "./panel.js";
import { Steering } from "./steer.js";
import { Table } from "./table.js";
import { clock, condition, duration, escaped, needsAttention, number, plural } from "./words.js";

const FIGURES_MS = 60000;
const TOAST_MS = 8000;

// A stream that ends and is opened again is nobody's business.
const GRACE_SECONDS = 2;

// Between two announcements; what comes meanwhile is read together.
const ANNOUNCE_MS = 2000;

let table = null;
let panel = null;
let steering = null;
let isDrawing = false;
let dirty = new Set();
let isAllDirty = false;
let isSampled = false;

const live = new Live((names, isSample) => {
  if (names === null) isAllDirty = true;
  else for (const name of names) dirty.add(name);
  isSampled ||= isSample;
  if (!isDrawing) {
    isDrawing = true;
    requestAnimationFrame(draw);
  }
});

// --- announcements: what changes, not how much

const pending = [];
const conditions = new Map();
let wasWell = true;

function announce(text) {
  pending.push(text);
}

setInterval(() => {
  if (pending.length) setText(byId("announcer"), pending.splice(0).slice(-6).join(". "));
}, ANNOUNCE_MS);

function toast(said) {
  const text = escaped(said);
  setText(byId("toast"), text);
  show(byId("toast"), true);
  announce(text);
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => show(byId("toast"), false), TOAST_MS);
}

function noteConditions() {
  const isFirst = conditions.size === 0;
  for (const [name, p] of live.projections) {
    const { key, word } = condition(p);
    // Behind and back again is what a busy store does all day.
    const told = key === "behind" ? "running" : key;
    if (!isFirst && conditions.has(name) && conditions.get(name) !== told) announce(`${escaped(name)} is ${word}`);
    conditions.set(name, told);
  }
}

// --- what is of the whole

function drawStore() {
  const { store } = live;
  if (!store) return;
  setText(byId("head"), number(store.head));
  setText(byId("count"), number(live.projections.size));
  setText(byId("workers"), number(store.live_workers));
  const counts = new Map();
  let attention = 0;
  for (const p of live.projections.values()) {
    const { word } = condition(p);
    counts.set(word, (counts.get(word) ?? 0) + 1);
    attention += needsAttention(p) ? 1 : 0;
  }
  setText(byId("summary"), [...counts].map(([word, count]) => `${number(count)} ${word}`).join(" · "));
  const title = attention ? `(${attention}) projectiond` : "projectiond";
  if (document.title !== title) document.title = title;
}

const notices = new Map();

// One notice of each kind, changed in place.
function notice(kind, tone, text, code = "") {
  let known = notices.get(kind);
  if (!text) {
    known?.node.remove();
    notices.delete(kind);
    return;
  }
  if (!known) {
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
}

function drawNotices() {
  const { store } = live;
  const lostFor = live.lostAt === null ? 0 : Date.now() / 1000 - live.lostAt;
  const isLost = lostFor > GRACE_SECONDS;
  const age = live.age();
  const old = age === null ? "" : ` What you see is ${duration(Math.round(age))} old.`;
  const isAway = Boolean(store) && !store.is_answering;
  const isWell = Boolean(store) && !isLost && !isAway;
  notice("lost", "bad", isLost ? `No connection to the daemon since ${clock(live.lostAt)}; it is tried again and again.${old}` : "");
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
  const state = isLost ? "lost" : !store ? "waiting" : isAway ? "away" : "live";
  setAttribute(byId("connection"), "data-state", state);
  const words = { lost: "no connection", waiting: "connecting …", away: "database away", live: "live" };
  setText(byId("connection-text"), state === "live" && age > 3 ? `live, ${duration(Math.round(age))} old` : words[state]);
  document.body.classList.toggle("is-old", !isWell && Boolean(store));
  if (store && isWell !== wasWell) announce(isWell ? "The picture is live again" : `The picture is old: ${words[state]}`);
  if (store) wasWell = isWell;
}

// --- the store's figures

async function readFigures() {
  if (document.hidden) return;
  try {
    const answer = await fetch("dashboard/store");
    if (answer.ok) drawFigures(await answer.json());
  } catch {
    // The stream says that there is no connection.
  }
}

function drawFigures(figures) {
  const most = Math.max(1, ...figures.per_day.map((day) => day.events));
  setText(byId("today"), figures.per_day.length ? number(figures.per_day[0].events) : "–");
  setText(byId("days-count"), String(figures.days));
  const days = [...figures.per_day].reverse().map((day) => {
    const height = Math.max(day.events ? 1 : 0, Math.round((day.events / most) * 24));
    const weekday = new Date(`${day.day}T00:00:00Z`).toLocaleDateString("en", { weekday: "short", timeZone: "UTC" });
    const text = `${day.day}: ${plural(day.events, "event", "events")} of ${plural(day.aggregates, "aggregate", "aggregates")}`;
    const bar = shape("rect", { x: "0", y: String(24 - height), width: "10", height: String(height) });
    return element(
      "li",
      { title: text },
      shape("svg", { viewBox: "0 0 10 24", preserveAspectRatio: "none", "aria-hidden": "true" }, bar),
      element("span", { "aria-hidden": "true" }, weekday),
      element("span", { class: "unseen" }, text),
    );
  });
  byId("days").replaceChildren(...days);
  const rows = figures.most_active.map((aggregate) =>
    element(
      "tr",
      {},
      element("td", {}, element("code", {}, aggregate.aggregate_id)),
      element("td", {}, aggregate.aggregate_type),
      element("td", { class: "number" }, number(aggregate.events)),
      element("td", { class: "number" }, number(aggregate.version)),
    ),
  );
  byId("busiest").replaceChildren(...rows);
  const counted = figures.age_seconds === null ? "" : `Counted ${duration(figures.age_seconds)} ago. `;
  const fault = figures.error ? `Counting failed: ${figures.error}.` : "";
  setText(byId("figures-note"), counted + fault);
}

// --- the loop

function draw() {
  isDrawing = false;
  const names = isAllDirty ? null : dirty;
  const sampled = isSampled;
  dirty = new Set();
  isAllDirty = isSampled = false;
  drawStore();
  drawNotices();
  table.update(names, sampled);
  if (panel.name !== null && (names === null || names.has(panel.name) || sampled)) panel.update(sampled);
  noteConditions();
  tick();
}

function tick() {
  const now = live.now();
  table.tick(now);
  panel.tick(now);
  drawNotices();
}

// The panel's name stands in the address, so that it can be passed on.
function follow() {
  if (!location.hash.startsWith("#p=")) return;
  try {
    const name = decodeURIComponent(location.hash.slice(3));
    if (name !== panel.name) openPanel(name);
  } catch {
    // Somebody has cut the address off in the middle of a letter.
  }
}

function openPanel(name) {
  history.replaceState(null, "", `#p=${encodeURIComponent(name)}`);
  table.mark(name);
  panel.open(name);
  panel.tick(live.now());
}

steering = new Steering((result) => {
  toast(result.charAt(0).toUpperCase() + result.slice(1));
  panel.refresh();
});
table = new Table(live, (name) => openPanel(name));
panel = new Panel(live, steering, (name) => {
  history.replaceState(null, "", location.pathname + location.search);
  table.mark(null);
  table.focus(name);
});
window.addEventListener("hashchange", follow);
follow();
setInterval(tick, 1000);
setInterval(readFigures, FIGURES_MS);
readFigures();
