// The store's figures: events of each day, and the aggregates that have most of them.

import { byId, element, setText, shape } from "./dom.js";
import { duration, number, plural } from "./words.js";

export async function readFigures() {
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
