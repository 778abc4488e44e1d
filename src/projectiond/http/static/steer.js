// Steering: what a button is about to do is said first, in this very case; then it is asked for, with the token.

import { byId, element, setText, show } from "./dom.js";
import { duration, number, percent, plural } from "./words.js";

const KEPT = "projectiond-token";

function sentences(...texts) {
  return texts.filter(Boolean).map((text) => element("p", {}, text));
}

function tokenKept() {
  return sessionStorage.getItem(KEPT);
}

function pauseWords(p) {
  const rebuild = p.status === "rebuilding" && p.rebuild;
  return {
    title: `Pause ${p.name}?`,
    yes: "Pause",
    text: sentences(
      `Once it is paused, none of its batches commits any more. It stands at ${number(p.position ?? 0)}; events that arrive wait in the store, and nothing is lost.`,
      rebuild && p.rebuild.mode === "beside"
        ? `Its rebuild, at ${percent(p.rebuild.share)}, is held too; “resume” goes on with both.`
        : "",
      rebuild && p.rebuild.mode === "in place"
        ? `Its rebuild in place, at ${percent(p.rebuild.share)}, stops as well: readers see half-filled tables until it is resumed.`
        : "",
      p.status === "rebuilding" && !p.rebuild ? "Its rebuild has not begun yet, and is dropped." : "",
    ),
  };
}

function resumeWords(p) {
  return {
    title: `Resume ${p.name}?`,
    yes: "Resume",
    text: sentences(
      `It goes on at ${number(p.position)}, with ${p.lag ? `up to ${plural(p.lag, "event", "events")} to apply` : "nothing to apply yet"}.`,
      p.error
        ? "Its error is cleared, and the event that failed is tried again, by the code that the daemon was started with: restart the daemon first if you have mended it."
        : "",
      p.rebuild ? `Its rebuild goes on too, at ${percent(p.rebuild.share)}.` : "",
    ),
  };
}

function rebuildWords(p, head, build) {
  const perSecond = build?.events_per_second;
  return {
    title: `Rebuild ${p.name}?`,
    yes: "Rebuild",
    text: sentences(
      `Every event that it handles is applied again, from the first up to the head: at most ${number(head)} events.`,
      "That happens beside the live tables. These go on being served and kept up to date, and become what the replay gave in one transaction at the end.",
      perSecond
        ? `In its last catch-up it applied ${number(Math.round(perSecond))} events a second: at that rate at most ${duration(head / perSecond)}.`
        : "How long it takes is shown once it has begun.",
      p.status === "rebuilding" ? `The rebuild in progress${p.rebuild ? `, at ${percent(p.rebuild.share)},` : ""} is thrown away, and begins afresh.` : "",
      p.status === "paused" ? "It is paused now, and runs afterwards." : "",
      p.letters ? `Its ${plural(p.letters, "dead letter", "dead letters")} make way for those of the new history.` : "",
    ),
  };
}

function retryWords(p, letter) {
  return {
    title: `Retry event ${letter.sequence_number}?`,
    yes: "Retry",
    text: sentences(
      `The daemon applies this event (${letter.event_type}) to ${p.name} now, once, by the code that it was started with. If that works the letter goes, in the same transaction; if not, it stays with the new error, and nothing else is changed.`,
      `It is out of order: later events, up to ${number(p.position)}, were applied already. That is right for handlers that insert or add up, and wrong for one that sets what a later event has set since. When in doubt, rebuild instead.`,
      p.status === "paused" ? `${p.name} is paused: it is tried when it is resumed.` : "",
    ),
  };
}

function discardWords(p, letter) {
  return {
    title: `Discard event ${letter.sequence_number}?`,
    yes: "Discard",
    isHarmful: true,
    text: sentences(
      `The letter is deleted, and ${p.name} goes without this event (${letter.event_type}). That cannot be undone here.`,
      "The event itself stays in the store, and a rebuild meets it again.",
    ),
  };
}

export class Steering {
  constructor(onDone) {
    this._onDone = onDone;
    this._dialog = byId("confirm");
    this._isBusy = false;
    byId("confirm-no").addEventListener("click", () => this._dialog.close());
    byId("confirm-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this._confirm();
    });
    byId("forget-token").addEventListener("click", () => {
      this.forget();
      this._onDone("the token is forgotten");
    });
    show(byId("forget-token"), Boolean(tokenKept()));
  }

  forget() {
    sessionStorage.removeItem(KEPT);
    show(byId("forget-token"), false);
  }

  hasToken() {
    return Boolean(tokenKept());
  }

  steer(action, p, head, build) {
    const words = { pause: pauseWords, resume: resumeWords, rebuild: rebuildWords }[action](p, head, build);
    this._ask(words, `${encodeURIComponent(p.name)}/${action}`);
  }

  decide(action, p, letter) {
    const words = { retry: retryWords, discard: discardWords }[action](p, letter);
    this._ask(words, `${encodeURIComponent(p.name)}/dead-letters/${letter.sequence_number}/${action}`);
  }

  // The event's data; null when the token is missing or wrong.
  async data(name, sequenceNumber) {
    const answer = await fetch(`dashboard/projections/${encodeURIComponent(name)}/dead-letters/${sequenceNumber}`, {
      headers: { Authorization: `Bearer ${tokenKept()}` },
    });
    if (answer.status === 401) {
      this.forget();
      return null;
    }
    const shape = await answer.json();
    if (!answer.ok) throw new Error(shape.error);
    return shape;
  }

  // Have somebody type the token in, for reading.
  unlock(then) {
    this._ask(
      { title: "Show the event’s data?", yes: "Show", text: sentences("What is in an event is shown to who has the token.") },
      null,
      then,
    );
  }

  _ask(words, path, then) {
    this._path = path;
    this._then = then;
    setText(byId("confirm-title"), words.title);
    byId("confirm-text").replaceChildren(...words.text);
    setText(byId("confirm-yes"), words.yes);
    byId("confirm-yes").classList.toggle("harmful", Boolean(words.isHarmful));
    setText(byId("confirm-fault"), "");
    this._demandToken(!tokenKept());
    this._dialog.showModal();
    const first = !tokenKept() ? byId("token") : words.isHarmful ? byId("confirm-no") : byId("confirm-yes");
    first.focus();
  }

  _demandToken(isDemanded) {
    byId("token").value = "";
    show(byId("confirm-token"), isDemanded);
    byId("token").required = isDemanded;
  }

  async _confirm() {
    if (this._isBusy) return;
    const typed = byId("token").value.trim();
    const token = tokenKept() ?? typed;
    if (this._path === null) {
      sessionStorage.setItem(KEPT, token);
      show(byId("forget-token"), true);
      this._dialog.close();
      this._then();
      return;
    }
    this._setBusy(true);
    try {
      const answer = await fetch(`dashboard/projections/${this._path}`, {
        method: "POST",
        headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
        body: "{}",
      });
      const shape = await answer.json();
      if (answer.ok) {
        sessionStorage.setItem(KEPT, token);
        show(byId("forget-token"), true);
        this._dialog.close();
        this._onDone(shape.result);
      } else {
        this._tellFault(answer.status, shape);
      }
    } catch {
      setText(byId("confirm-fault"), "The daemon does not answer; it may have been done all the same. Look before you ask again.");
    } finally {
      this._setBusy(false);
    }
  }

  _tellFault(status, shape) {
    const hint = status >= 500 && shape.hint ? `; ${shape.hint}` : "";
    setText(byId("confirm-fault"), `${shape.error.charAt(0).toUpperCase()}${shape.error.slice(1)}${hint}.`);
    if (status === 401) {
      this.forget();
      this._demandToken(true);
      byId("token").focus();
    }
  }

  _setBusy(isBusy) {
    this._isBusy = isBusy;
    byId("confirm-yes").disabled = isBusy;
    this._dialog.setAttribute("aria-busy", String(isBusy));
  }
}
