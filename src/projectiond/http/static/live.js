// The live picture: one stream of server-sent events, opened again whenever it ends, and closed while nobody looks.
//
// It keeps `server`, `store`, `roster`, `projections` (by name) and `lags` (by name, the oldest first), and calls
// onChange(names, isSample) after each message, names being those whose entries have changed, or null for all.

const SHORTEST_PAUSE = 500;
const LONGEST_PAUSE = 10000;

// The server speaks once a second.
const SILENCE = 5000;

export class Live {
  constructor(onChange) {
    this.server = { version: "", is_steerable: false, sample_seconds: 5, samples: 120 };
    this.store = null;
    this.roster = { workers: [], differences: [] };
    this.projections = new Map();
    this.lags = new Map();
    this.lostAt = null;
    this.refusal = "";
    this.heardAt = null;
    this.clockOffset = 0;
    this._onChange = onChange;
    this._failures = 0;
    this._source = null;
    this._timer = 0;
    document.addEventListener("visibilitychange", () => (document.hidden ? this._close() : this._open()));
    window.addEventListener("online", () => this._open());
    setInterval(() => this._watch(), 1000);
    this._open();
  }

  // Seconds since the epoch, by the daemon's clock.
  now() {
    return Date.now() / 1000 + this.clockOffset;
  }

  // How old what is shown of the database is, in seconds.
  age() {
    if (!this.store || this.store.age_seconds === null) return null;
    return this.store.age_seconds + (performance.now() - this.heardAt) / 1000;
  }

  _open() {
    this._close();
    if (document.hidden) return;
    const source = new EventSource("dashboard/stream");
    this._source = source;
    this._openedAt = performance.now();
    source.addEventListener("picture", (event) => this._take(JSON.parse(event.data), true));
    source.addEventListener("change", (event) => this._take(JSON.parse(event.data), false));
    source.addEventListener("over", () => this._open());
    source.addEventListener("error", () => this._fail());
  }

  _close() {
    clearTimeout(this._timer);
    this._source?.close();
    this._source = null;
  }

  _fail() {
    this._close();
    this._lose();
    const pause = Math.min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** this._failures) * (0.75 + Math.random() / 2);
    this._failures += 1;
    this._timer = setTimeout(() => this._open(), pause);
    this._askWhy();
  }

  // Of a stream that is refused the browser tells nothing.
  async _askWhy() {
    try {
      const answer = await fetch("dashboard/stream", { method: "HEAD" });
      this.refusal = answer.status === 503 ? "As many look at this page already as may" : "";
    } catch {
      this.refusal = "";
    }
    if (this.refusal) this._onChange(null, false);
  }

  _lose() {
    if (this.lostAt !== null) return;
    this.lostAt = Date.now() / 1000;
    this._onChange(null, false);
  }

  // A connection that is dead without having been closed says nothing, not even that.
  _watch() {
    if (this._source && performance.now() - Math.max(this.heardAt ?? 0, this._openedAt) > SILENCE) this._fail();
  }

  _take(message, isWhole) {
    this._failures = 0;
    this.lostAt = null;
    this.refusal = "";
    this.heardAt = performance.now();
    this.store = message.store;
    this.roster = message.roster ?? this.roster;
    this.clockOffset = message.store.now - Date.now() / 1000;
    if (isWhole) {
      this.server = message.server;
      this.projections = new Map(message.projections.map((p) => [p.name, p]));
      this.lags = new Map(Object.entries(message.lags));
      this._onChange(null, true);
      return;
    }
    const names = new Set(message.gone);
    for (const name of message.gone) this.projections.delete(name);
    for (const p of message.changed) {
      this.projections.set(p.name, p);
      names.add(p.name);
    }
    if (message.lags) this._sample(new Map(Object.entries(message.lags)));
    this._onChange(names, Boolean(message.lags));
  }

  _sample(latest) {
    for (const name of this.projections.keys()) {
      const lags = this.lags.get(name) ?? [];
      lags.push(latest.has(name) ? latest.get(name) : 0);
      if (lags.length > this.server.samples) lags.shift();
      this.lags.set(name, lags);
    }
  }
}
