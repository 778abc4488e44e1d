// The table of projections: a row for each, kept and changed in place, so that two hundred of them cost next to nothing.
//
// What is worst comes first, then by name.  Rows do not move while somebody points at them or is in them with the keyboard.

import { byId, element, setAttribute, setText, show } from "./dom.js";
import { makeLine } from "./line.js";
import { ago, condition, duration, needsAttention, number, plural, rate, rebuildWords } from "./words.js";

function cell(label, className, ...children) {
  return element("td", { role: "cell", class: className, "data-label": label }, ...children);
}

class Row {
  constructor(name, open, samples) {
    this.name = name;
    this.button = element("button", { type: "button", class: "name", onclick: () => open(name) }, name);
    this._letters = element("span", { class: "badge", hidden: true });
    this._error = element("p", { class: "error", hidden: true });
    this._status = element("span", { class: "pill" });
    this._progress = element("progress", { max: "1", hidden: true });
    this._rebuild = element("span", { class: "faint", hidden: true });
    this._lag = element("span");
    this._time = element("span");
    this._rate = element("span");
    this._last = element("span");
    this._line = makeLine(samples);
    this._head = element("th", { role: "rowheader", scope: "row", class: "first" }, this.button, this._letters, this._error);
    this.node = element(
      "tr",
      { role: "row", onclick: (event) => event.target.closest("button, a") || window.getSelection()?.toString() || open(name) },
      this._head,
      cell("Status", "status", this._status, this._progress, this._rebuild),
      cell("Lag, events", "number", this._lag),
      cell("Lag, time", "number", this._time),
      cell("Last 10 min", "trend", this._line.node),
      cell("Rate", "number", this._rate),
      cell("Last event", "number", this._last),
    );
  }

  update(p) {
    const found = condition(p);
    this.p = p;
    this.rank = found.rank;
    setAttribute(this.node, "data-tone", found.tone);
    setText(this._status, found.word);
    setAttribute(this._status, "data-tone", found.tone);
    setText(this._letters, p.letters ? plural(p.letters, "dead letter", "dead letters") : "");
    show(this._letters, p.letters > 0);
    const error = p.error ?? p.rebuild?.error ?? "";
    setText(this._error, error);
    show(this._error, Boolean(error));
    show(this._progress, Boolean(p.rebuild));
    show(this._rebuild, Boolean(p.rebuild));
    if (p.rebuild) {
      this._progress.value = p.rebuild.share;
      setAttribute(this._progress, "aria-label", `rebuild of ${p.name}`);
      setText(this._rebuild, rebuildWords(p.rebuild));
    }
    setText(this._lag, number(p.lag));
    setText(this._time, p.lag ? duration(p.lag_seconds) : "0 s");
    setText(this._rate, rate(p.rate));
  }

  tick(now) {
    setText(this._last, ago(this.p.processed_at, now));
  }

  draw(lags) {
    this._line.draw(lags);
  }
}

export class Table {
  constructor(live, open) {
    this._live = live;
    this._open = open;
    this._rows = new Map();
    this._body = byId("rows");
    this._order = [];
    this._filter = byId("filter");
    this._onlyTrouble = byId("only-trouble");
    this._filter.addEventListener("input", () => this._arrange());
    this._onlyTrouble.addEventListener("change", () => this._arrange());
    this._body.addEventListener("keydown", (event) => this._move(event));
    document.addEventListener("keydown", (event) => {
      const isTyping = event.target.closest("input, textarea, dialog, [contenteditable]");
      if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        this._filter.focus();
      }
    });
  }

  update(names, isSample) {
    for (const name of names ?? [...this._rows.keys(), ...this._live.projections.keys()]) {
      const p = this._live.projections.get(name);
      if (!p) {
        this._rows.get(name)?.node.remove();
        this._rows.delete(name);
        continue;
      }
      if (!this._rows.has(name)) this._rows.set(name, new Row(name, this._open, () => this._live.server.samples));
      this._rows.get(name).update(p);
    }
    if (isSample) for (const row of this._rows.values()) row.draw(this._live.lags.get(row.name) ?? []);
    this._arrange();
  }

  tick(now) {
    for (const row of this._rows.values()) row.tick(now);
  }

  mark(name) {
    for (const row of this._rows.values()) setAttribute(row.button, "aria-expanded", row.name === name ? "true" : "false");
  }

  focus(name) {
    this._rows.get(name)?.button.focus();
  }

  _arrange() {
    const wanted = [...this._rows.values()].sort((a, b) => a.rank - b.rank || (a.name < b.name ? -1 : 1));
    const isInUse = this._order.length && (this._body.matches(":hover") || this._body.contains(document.activeElement));
    const isComplete = this._order.length === wanted.length && this._order.every((row) => this._rows.get(row.name) === row);
    const isSame = isComplete && this._order.every((row, index) => row === wanted[index]);
    if (!isSame && !(isInUse && isComplete)) {
      this._order = wanted;
      this._body.append(...wanted.map((row) => row.node));
    }
    const text = this._filter.value.trim().toLowerCase();
    let shown = 0;
    for (const row of this._rows.values()) {
      const isShown = row.name.toLowerCase().includes(text) && (!this._onlyTrouble.checked || needsAttention(row.p));
      show(row.node, isShown);
      shown += isShown ? 1 : 0;
    }
    show(byId("empty"), shown === 0 && this._live.store !== null);
    if (!shown) {
      const isFiltered = text || this._onlyTrouble.checked;
      setText(byId("empty"), isFiltered && this._rows.size ? "None of them is like that." : "No projection has begun yet.");
    }
  }

  _move(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const buttons = this._order.filter((row) => !row.node.hidden).map((row) => row.button);
    const next = buttons[buttons.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next && buttons.includes(document.activeElement)) {
      event.preventDefault();
      next.focus();
    }
  }
}
