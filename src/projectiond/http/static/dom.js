// The document: elements made of names and texts.  Text is always inserted as text; nothing here parses markup.
//
// What a text has of characters that cannot be seen is shown as an escape, here and so everywhere.

import { escaped } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, escaped(String(value)));
  }
  const present = children.filter((child) => child !== null && child !== undefined);
  made.append(...present.map((child) => (child instanceof Node ? child : escaped(String(child)))));
  return made;
}

// Write only what is new: an unchanged text costs no layout, and is not read out again.
export function setText(target, text) {
  const shown = escaped(text);
  if (target.textContent !== shown) target.textContent = shown;
}

export function setAttribute(target, name, value) {
  if (value === null) {
    target.removeAttribute(name);
    return;
  }
  const shown = escaped(value);
  if (target.getAttribute(name) !== shown) target.setAttribute(name, shown);
}

export function show(target, isShown) {
  if (target.hidden === isShown) target.hidden = !isShown;
}

export function byId(id) {
  return document.getElementById(id);
}
