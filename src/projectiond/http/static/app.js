// The page: what is of the whole, and the parts put together.

import { byId, setText, show } from "./dom.js";
import { readFigures } from "./figures.js";
import { Live } from "./live.js";
import { drawNotices } from "./notices.js";
import { Panel } from "./panel.js";
import { drawRoster } from "./roster.js";
import { Steering } from "./steer.js";
import { Table } from "./table.js";
import { condition, needsAttention, number } from "./words.js";

const FIGURES_MS = 60000;
const TOAST_MS = 8000;

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

function announce(text) {
  pending.push(text);
}

setInterval(() => {
  if (pending.length) setText(byId("announcer"), pending.splice(0).slice(-6).join(". "));
}, ANNOUNCE_MS);

function toast(said) {
  setText(byId("toast"), said);
  show(byId("toast"), true);
  announce(said);
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => show(byId("toast"), false), TOAST_MS);
}

function noteConditions() {
  const isFirst = conditions.size === 0;
  for (const [name, p] of live.projections) {
    const { key, word } = condition(p);
    // Behind and back again is what a busy store does all day.
    const told = key === "behind" ? "running" : key;
    if (!isFirst && conditions.has(name) && conditions.get(name) !== told) announce(`${name} is ${word}`);
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

// --- the loop

function draw() {
  isDrawing = false;
  const names = isAllDirty ? null : dirty;
  const sampled = isSampled;
  dirty = new Set();
  isAllDirty = isSampled = false;
  drawStore();
  drawRoster(live);
  table.update(names, sampled);
  if (panel.name !== null && (names === null || names.has(panel.name) || sampled)) panel.update(sampled);
  noteConditions();
  tick();
}

function tick() {
  const now = live.now();
  table.tick(now);
  panel.tick(now);
  drawNotices(live, announce);
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
  toast(result);
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
