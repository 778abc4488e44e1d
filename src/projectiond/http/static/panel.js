// The panel: one projection in full, with what may be done about it.

import { byId, element, setAttribute, setText, show } from "./dom.js";
import { makeChart } from "./line.js";
import { ago, clock, condition, duration, moment, number, plural, rate, rebuildWords, runnerWords, shellWord, story } from "./words.js";

const REFRESH_MS = 5000;
const SOON_MS = 1500;

// As in the style sheet.
const COVERING = window.matchMedia("(width < 1180px)");

function fact(title, className = "") {
  const value = element("dd");
  return { node: element("div", { class: className }, element("dt", {}, title), value), value };
}

function section(title, ...children) {
  return element("section", { hidden: true }, element("h3", {}, title), ...children);
}

export class Panel {
  constructor(live, steering, onClosed) {
    this._live = live;
    this._steering = steering;
    this._onClosed = onClosed;
    this._node = byId("panel");
    this._name = null;
    this._details = null;
    this._letterCount = 0;
    this._letters = new Map();
    this._build();
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this._name !== null && !byId("confirm").open) this.close();
    });
    COVERING.addEventListener("change", () => this._cover());
    setInterval(() => this._read(), REFRESH_MS);
  }

  get name() {
    return this._name;
  }

  open(name) {
    this._name = name;
    this._details = null;
    this._letters.clear();
    this._lettersList.replaceChildren();
    for (const part of [this._lettersPart, this._errorsPart, this._rebuildsPart, this._change]) show(part, false);
    setText(this._fault, "");
    show(this._node, true);
    document.body.classList.add("has-panel");
    this._cover();
    this.update(true);
    this._title.focus();
    this._node.scrollTop = 0;
    this._read();
  }

  close() {
    const name = this._name;
    this._name = null;
    show(this._node, false);
    document.body.classList.remove("has-panel");
    this._cover();
    this._onClosed(name);
  }

  // Something was asked for: what comes of it is soon to be seen.
  refresh() {
    this._read();
    setTimeout(() => this._read(), SOON_MS);
  }

  update(isSample) {
    if (this._name === null) return;
    const p = this._live.projections.get(this._name);
    setText(this._title, this._name);
    if (!p) {
      setText(this._story, "It is not in the database any more.");
      show(this._buttons, false);
      return;
    }
    if (this._details && p.letters !== this._letterCount) this._read();
    this._letterCount = p.letters;
    const found = condition(p);
    setText(this._pill, found.word);
    setAttribute(this._pill, "data-tone", found.tone);
    setText(this._story, story(p));
    const error = [p.error, p.rebuild?.error].filter(Boolean).join("\n");
    setText(this._error, error);
    show(this._error, Boolean(error));
    show(this._progressPart, Boolean(p.rebuild));
    if (p.rebuild) {
      this._progress.value = p.rebuild.share;
      const mode = p.rebuild.mode === "beside" ? "beside the live tables" : "in place";
      setText(this._progressText, `Rebuild ${mode}: ${rebuildWords(p.rebuild)}, at ${number(p.rebuild.position)}`);
    }
    setText(this._position.value, number(p.position));
    setText(this._lag.value, `${plural(p.lag, "event", "events")}, ${p.lag ? duration(p.lag_seconds) : "0 s"}`);
    setText(this._rate.value, rate(p.rate));
    setText(this._processed.value, number(p.processed));
    setText(this._runner.value, runnerWords(p));
    if (isSample) this._chart.draw(this._live.lags.get(this._name) ?? []);
    this._offer(p);
  }

  tick(now) {
    const p = this._name === null ? null : this._live.projections.get(this._name);
    if (p) setText(this._last.value, ago(p.processed_at, now));
  }

  // What it covers is not to be reached by the keyboard.
  _cover() {
    const isCovered = this._name !== null && COVERING.matches;
    for (const part of document.querySelectorAll("main, .top, .skip")) part.inert = isCovered;
  }

  // --- what stands in it

  _build() {
    this._title = element("h2", { id: "panel-title", tabindex: "-1" });
    this._pill = element("span", { class: "pill" });
    this._story = element("p", { class: "story" });
    this._error = element("p", { class: "error whole", hidden: true });
    this._progress = element("progress", { max: "1", "aria-label": "Rebuild" });
    this._progressText = element("span", { class: "faint" });
    this._progressPart = element("p", { class: "rebuild", hidden: true }, this._progress, this._progressText);
    this._change = element("p", { class: "notice warn", hidden: true });
    this._fault = element("p", { class: "fault" });
    this._position = fact("Position");
    this._lag = fact("Lag");
    this._rate = fact("Rate");
    this._last = fact("Last event");
    this._processed = fact("Events applied");
    this._runner = fact("Run by", "wide");
    this._chart = makeChart(
      () => this._live.server.samples,
      () => Math.round((this._live.server.samples * this._live.server.sample_seconds) / 60),
    );
    this._toPause = this._button("Pause …", "pause");
    this._toResume = this._button("Resume …", "resume");
    this._toRebuild = this._button("Rebuild …", "rebuild");
    this._buttons = element("p", { class: "buttons" }, this._toPause, this._toResume, this._toRebuild);
    this._commands = element("p", { class: "faint" });
    this._lettersList = element("ul", { class: "letters" });
    this._lettersMore = element("p", { class: "faint" });
    this._lettersPart = section("Dead letters", this._lettersList, this._lettersMore);
    this._errorsList = element("ol", { class: "errors" });
    this._errorsPart = section("Errors seen since the daemon’s start", this._errorsList);
    this._rebuildsList = element("ol", { class: "rebuilds" });
    this._rebuildsPart = section("Last rebuilds", this._rebuildsList);
    this._node.replaceChildren(
      element(
        "header",
        {},
        this._title,
        element("button", { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => this.close() }, "✕"),
      ),
      element("p", {}, this._pill),
      this._story,
      this._error,
      this._progressPart,
      this._change,
      this._buttons,
      this._commands,
      this._chart.node,
      element(
        "dl",
        { class: "facts" },
        this._position.node,
        this._lag.node,
        this._rate.node,
        this._last.node,
        this._processed.node,
        this._runner.node,
      ),
      this._fault,
      this._lettersPart,
      this._errorsPart,
      this._rebuildsPart,
    );
  }

  _button(text, action) {
    return element(
      "button",
      {
        type: "button",
        onclick: () => {
          const p = this._live.projections.get(this._name);
          if (p) this._steering.steer(action, p, this._live.store.head, this._details?.build);
        },
      },
      text,
    );
  }

  _offer(p) {
    const { is_steerable: isSteerable } = this._live.server;
    show(this._buttons, isSteerable);
    const [offered, taken] = p.status === "paused" ? [this._toResume, this._toPause] : [this._toPause, this._toResume];
    const isInHand = document.activeElement === taken;
    show(offered, true);
    show(taken, false);
    // Whoever has just paused it by the keyboard is not to be thrown to the beginning of the page.
    if (isInHand) offered.focus();
    const command = p.status === "paused" ? "resume" : "pause";
    const word = shellWord(p.name);
    const text = isSteerable
      ? ""
      : `To steer from here set http_token. Until then: projectiond ${command} ${word}, or projectiond rebuild ${word}`;
    setText(this._commands, text);
    show(this._commands, !isSteerable);
  }

  // --- what only the database knows

  async _read() {
    const name = this._name;
    if (name === null || document.hidden) return;
    try {
      const answer = await fetch(`dashboard/projections/${encodeURIComponent(name)}/details`);
      const shape = await answer.json();
      if (name !== this._name) return;
      setText(this._fault, answer.ok ? "" : `Dead letters and rebuilds are not to be had: ${shape.error}.`);
      if (answer.ok) this._show(shape);
    } catch {
      if (name === this._name) setText(this._fault, "Dead letters and rebuilds are not to be had: the daemon does not answer.");
    }
  }

  _show(details) {
    const before = this._details;
    this._details = details;
    const isNew = (part) => JSON.stringify(before?.[part]) !== JSON.stringify(details[part]);
    if (isNew("letters")) this._showLetters(details);
    if (isNew("errors")) {
      const entries = details.errors.map((seen) =>
        element("li", {}, element("time", { datetime: new Date(seen.at * 1000).toISOString() }, clock(seen.at)), " ", seen.text),
      );
      this._errorsList.replaceChildren(...entries);
    }
    show(this._errorsPart, details.errors.length > 0);
    if (isNew("rebuilds")) this._rebuildsList.replaceChildren(...details.rebuilds.map(rebuildEntry));
    show(this._rebuildsPart, details.rebuilds.length > 0);
    show(this._change, Boolean(details.build?.is_changed));
    setText(
      this._change,
      details.build?.is_changed
        ? `Its tables were built by something else (${moment(details.build.built_at)}) than what runs now: “projectiond plan ${shellWord(details.name)}” says what has changed, and what a rebuild takes.`
        : "",
    );
  }

  _showLetters(details) {
    const known = this._letters;
    this._letters = new Map();
    const nodes = [];
    for (const letter of details.letters) {
      const kept = known.get(letter.sequence_number) ?? new Letter(this, letter.sequence_number);
      kept.update(letter);
      this._letters.set(letter.sequence_number, kept);
      nodes.push(kept.node);
    }
    const gone = [...known.values()].filter((letter) => !nodes.includes(letter.node));
    const hadFocus = gone.some((letter) => letter.node.contains(document.activeElement));
    for (const letter of gone) letter.node.remove();
    for (const node of nodes) if (!node.isConnected) this._lettersList.append(node);
    if (hadFocus) this._title.focus();
    show(this._lettersPart, nodes.length > 0);
    setText(this._lettersMore, details.has_more_letters ? `The first ${nodes.length}; “projectiond dead-letters list ${shellWord(details.name)}” has all.` : "");
  }

  // --- what letters ask for

  get projection() {
    return this._live.projections.get(this._name);
  }

  get steering() {
    return this._steering;
  }

  get isSteerable() {
    return this._live.server.is_steerable;
  }
}

class Letter {
  constructor(panel, number_) {
    this._panel = panel;
    this._number = number_;
    this._data = null;
    this._summary = element("summary");
    this._error = element("p", { class: "error whole" });
    this._facts = element("p", { class: "faint" });
    this._json = element("pre", { tabindex: "0", role: "region", "aria-label": `Data of event ${number_}`, hidden: true });
    this._cut = element("p", { class: "faint", hidden: true });
    this._toShow = element("button", { type: "button", onclick: () => this._load(true) }, "Show the event’s data …");
    this._toRetry = element("button", { type: "button", onclick: () => this._decide("retry") }, "Retry …");
    this._toDiscard = element("button", { type: "button", onclick: () => this._decide("discard") }, "Discard …");
    this._buttons = element("p", { class: "buttons" }, this._toRetry, this._toDiscard, this._toShow);
    const more = element("details", {}, this._summary, this._error, this._facts, this._json, this._cut, this._buttons);
    more.addEventListener("toggle", () => more.open && this._panel.steering.hasToken() && this._load(false));
    this.node = element("li", {}, more);
  }

  update(letter) {
    this._letter = letter;
    const state = letter.state === "kept" ? "" : `  · ${letter.state}`;
    setText(this._summary, `${letter.sequence_number}  ${letter.event_type}${state}`);
    setText(this._error, letter.error);
    setText(
      this._facts,
      `in ${letter.handler}, tried ${plural(letter.attempts, "time", "times")}, last on ${moment(letter.failed_at)}; ` +
        `event ${letter.event_id}, aggregate ${letter.aggregate_id}`,
    );
    show(this._buttons, this._panel.isSteerable);
  }

  _decide(action) {
    const p = this._panel.projection;
    if (p) this._panel.steering.decide(action, p, this._letter);
  }

  async _load(mayAsk) {
    if (this._data !== null || !this._panel.isSteerable) return;
    if (!this._panel.steering.hasToken()) {
      if (mayAsk) this._panel.steering.unlock(() => this._load(true));
      return;
    }
    try {
      const data = await this._panel.steering.data(this._panel.projection.name, this._number);
      if (data === null) {
        if (mayAsk) this._panel.steering.unlock(() => this._load(true));
        return;
      }
      this._data = data;
      setText(this._json, indented(data.text));
      setText(this._cut, data.is_cut ? `The first ${number(data.text.length)} of ${number(data.length)} characters.` : "");
      show(this._cut, data.is_cut);
    } catch (error) {
      setText(this._json, `It is not to be had: ${error.message}`);
    }
    show(this._json, true);
    show(this._toShow, this._data === null);
  }
}

// Set in lines without being read as numbers and the like: what is shown is what is stored, to the last digit.
function indented(text) {
  let depth = 0;
  let isString = false;
  let made = "";
  const line = () => `\n${"  ".repeat(Math.min(depth, 40))}`;
  for (let index = 0; index < text.length; index += 1) {
    const char = text[index];
    if (isString) {
      made += char;
      if (char === "\\") made += text[(index += 1)] ?? "";
      else if (char === '"') isString = false;
    } else if (char === '"') {
      isString = true;
      made += char;
    } else if ("{[".includes(char)) {
      depth += 1;
      made += char + line();
    } else if ("}]".includes(char)) {
      depth -= 1;
      made = (/[{[]\s*$/.test(made.slice(-90)) ? made.trimEnd() : made + line()) + char;
    } else if (char === ",") made += char + line();
    else if (char === ":") made += ": ";
    else if (!/\s/.test(char)) made += char;
  }
  return made;
}

function rebuildEntry(rebuild) {
  const took = duration(rebuild.finished_at - rebuild.started_at);
  const tables = rebuild.tables.map((table) => {
    const counts = ["changed", "added", "removed"].map((key) => `${number(table[key] ?? 0)} ${key}`).join(", ");
    return element("li", {}, `${table.table}: ${plural(table.total ?? 0, "row", "rows")}, ${counts}`);
  });
  return element(
    "li",
    {},
    `${moment(rebuild.finished_at)}: up to ${number(rebuild.position)} in ${took}, by ${rebuild.method}`,
    tables.length ? element("ul", {}, ...tables) : null,
  );
}
