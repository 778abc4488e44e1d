// Words: numbers, times and states, as a person reads them at night.  Pure functions.

// Controls, direction marks, tags, lone halves of a pair, and letters without a glyph: all of them change how the text
// around them is read, or are not to be seen.
const UNSEEN = /(?!\n)[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0]/gu;

// Show what cannot be seen; in JSON it means the same as before.
export function escaped(text) {
  return text.replace(UNSEEN, (char) =>
    char.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join(""),
  );
}

// As an argument of a command that somebody copies: one word to a shell, whatever is in it.
export function shellWord(text) {
  return /^[\w.:-]+$/.test(text) && !text.startsWith("-") ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

const NUMBER = new Intl.NumberFormat("en");

export function number(value) {
  return value === null || value === undefined ? "–" : NUMBER.format(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, seconds);
  if (s < 10) return `${Math.round(s * 10) / 10} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${NUMBER.format(Math.round(s / 86400))} d`;
}

export function ago(at, now) {
  return at === null || at === undefined ? "never" : `${duration(Math.max(0, Math.round(now - at)))} ago`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond === 0 ? "0" : `${NUMBER.format(perSecond)}/s`;
}

export function clock(at) {
  return unmarked(new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }));
}

export function moment(at) {
  return unmarked(new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" }));
}

// Some languages' dates have direction marks in them, which would be shown as escapes.
function unmarked(text) {
  return text.replace(/\p{Cf}/gu, "");
}

// The worker that runs a projection.
export function runnerWords(p) {
  if (!p.runner) return p.has_runner ? "a worker that is not known by name" : "nobody";
  const { worker, host, process_id: pid, version, since } = p.runner;
  return `worker ${worker} of ${host}, process ${pid}, version ${version}${since === null ? "" : `, since ${moment(since)}`}`;
}

export function plural(count, one, many) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

export function percent(share) {
  return `${Math.floor(share * 100)} %`;
}

// So far behind in time, a projection is one that somebody looks for.
const BEHIND_SECONDS = 60;

// What a projection is doing: a word for the table, how bad it is, and its place in the order.
export function condition(p) {
  if (p.status === "paused" && p.error) return { key: "stopped", word: "stopped", tone: "bad", rank: 0 };
  if (p.status === "rebuilding" && p.error) return { key: "standing", word: "rebuilding", tone: "bad", rank: 0 };
  if (p.status === "rebuilding" && p.rebuild?.error) return { key: "rebuild-failed", word: "rebuild fails", tone: "bad", rank: 0 };
  if (p.status !== "paused" && p.error) return { key: "trouble", word: "trouble", tone: "bad", rank: 0 };
  if (p.status === null) return { key: "new", word: "not begun", tone: "warn", rank: 2 };
  if (p.status === "running" && !p.has_runner) return { key: "alone", word: "no runner", tone: "warn", rank: 1 };
  if (p.status === "paused") return { key: "paused", word: "paused", tone: "warn", rank: 3 };
  if (p.status === "rebuilding") return { key: "rebuilding", word: "rebuilding", tone: "busy", rank: 4 };
  if (p.lag > 0 && (p.lag_seconds === null || p.lag_seconds > BEHIND_SECONDS)) {
    return { key: "behind", word: "behind", tone: "warn", rank: 5 };
  }
  return { key: "running", word: "running", tone: "good", rank: p.letters ? 5 : 6 };
}

export function needsAttention(p) {
  return condition(p).rank < 4 || condition(p).key === "behind" || p.letters > 0;
}

// What it is doing, and what that means, in sentences.
export function story(p) {
  const behind = p.lag ? `, ${plural(p.lag, "number", "numbers")} behind the head` : ", at the head";
  const at = `It stands at ${number(p.position)}${behind}.`;
  switch (condition(p).key) {
    case "stopped":
      return `It was paused for the error below. ${at} Events wait in the store; nothing is lost. Mend what is wrong, restart the daemon if its code was changed, then resume.`;
    case "paused":
      return `Somebody has paused it. ${at} Events wait in the store until it is resumed.`;
    case "new":
      return "It has no checkpoint yet, and begins when a daemon runs it.";
    case "alone":
      return `No worker runs it${p.is_deployed === false ? ": this daemon has no plugin of that name" : ""}. ${at}`;
    case "trouble":
      return `It goes on trying, for the reason below. ${at}`;
    case "standing":
      return `Its live tables are not kept up to date until the rebuild ends, for the reason below. ${at}`;
    case "rebuild-failed":
      return `The rebuild cannot go on, for the reason below, and is tried again every minute; the live tables are kept up to date. ${at}`;
    case "rebuilding":
      return p.rebuild?.mode === "in place"
        ? "Its tables were emptied and are filled again, in view of their readers."
        : `It is built anew beside its live tables, which are served and kept up to date meanwhile. ${at}`;
    default:
      return at;
  }
}

export function rebuildWords(r) {
  if (!r) return "";
  const left = r.is_paused ? "held" : r.seconds_left === null ? "" : `about ${duration(r.seconds_left)} left`;
  return [percent(r.share), left].filter(Boolean).join(", ");
}
