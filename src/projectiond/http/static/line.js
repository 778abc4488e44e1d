// The line: lag over the last minutes, the newest at the right.  A time without a reading is a gap.

import { element, setAttribute, setText, shape, show } from "./dom.js";
import { number } from "./words.js";

const WIDTH = 120;
const HEIGHT = 28;

// A lag of a few events is no mountain.
const LEAST_TOP = 20;

export function makeLine(samples) {
  const area = shape("path", { class: "area" });
  const stroke = shape("path", { class: "stroke", "vector-effect": "non-scaling-stroke" });
  const svg = shape(
    "svg",
    { class: "line", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    area,
    stroke,
  );
  return { node: svg, draw: (lags) => draw(svg, area, stroke, lags, samples()) };
}

function draw(svg, area, stroke, lags, samples) {
  const known = lags.filter((lag) => lag !== null && lag !== undefined);
  const most = known.length ? Math.max(...known) : 0;
  const top = Math.max(most, LEAST_TOP);
  const step = WIDTH / Math.max(1, samples - 1);
  const first = WIDTH - (lags.length - 1) * step;
  let outline = "";
  let filled = "";
  let begun = null;
  const close = (x) => {
    if (begun !== null) filled += `L${round(x)} ${HEIGHT}L${round(begun)} ${HEIGHT}Z`;
    begun = null;
  };
  lags.forEach((lag, index) => {
    const x = first + index * step;
    if (lag === null || lag === undefined) {
      close(x - step);
      return;
    }
    const point = `${round(x)} ${round(HEIGHT - 1.5 - (lag / top) * (HEIGHT - 3))}`;
    outline += `${begun === null ? "M" : "L"}${point}`;
    filled += `${begun === null ? "M" : "L"}${point}`;
    if (begun === null) begun = x;
  });
  close(WIDTH);
  setAttribute(stroke, "d", outline);
  setAttribute(area, "d", filled);
  setAttribute(svg, "data-flat", most === 0 ? "" : null);
  const latest = known.length ? known[known.length - 1] : null;
  setAttribute(svg, "aria-label", latest === null ? "not known" : `lag ${number(latest)}, at most ${number(most)}`);
}

function round(value) {
  return Math.round(value * 10) / 10;
}

export function makeChart(samples, minutes) {
  const line = makeLine(samples);
  line.node.classList.add("large");
  const top = element("span");
  const chart = element(
    "figure",
    { class: "chart" },
    line.node,
    element("figcaption", {}, element("span", {}, `${minutes()} min ago`), top, element("span", {}, "now")),
  );
  return {
    node: chart,
    draw(lags) {
      line.draw(lags);
      const known = lags.filter((lag) => lag !== null && lag !== undefined);
      const text = known.length ? `lag in events, at most ${number(Math.max(...known))}` : "";
      setText(top, text);
      show(chart, known.length > 0);
    },
  };
}
