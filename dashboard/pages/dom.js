// Makes elements. Text from the cluster only ever becomes text nodes and attribute values: never markup, never a URL.

/** Return an element: attributes by name (on... are listeners), children as strings or nodes; null ones are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return a link to a page of ours; each part of its path is encoded. */
export function link(parts, ...children) {
  return h("a", { href: "#/" + parts.map(encodeURIComponent).join("/") }, ...children);
}

/** A list of elements that follows a list of things: an element is made anew only where its thing has changed. */
export class Rows {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.known = new Map();
  }

  /** Show `things`, pairs of a key and a version, each with what `make` needs: [key, version, thing]. */
  show(things) {
    const before = this.known;
    this.known = new Map();
    let place = this.parent.firstChild;
    for (const [key, version, thing] of things) {
      let row = before.get(key);
      if (!row || row.version !== version) {
        const element = this.make(thing);
        if (row) {
          if (place === row.element) place = element;
          row.element.replaceWith(element);
        }
        row = { version, element };
      }
      before.delete(key);
      this.known.set(key, row);
      if (row.element === place) place = place.nextSibling;
      else this.parent.insertBefore(row.element, place);
    }
    for (const row of before.values()) row.element.remove();
  }
}

/** Return a table in a frame that scrolls by itself, and its body. */
export function table(caption, columns) {
  const body = h("tbody");
  const head = columns.map((column) => h("th", { scope: "col" }, column));
  const frame = h("div", { class: "frame", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), body));
  return { frame, body };
}

/** Return a bar of how full something is, from 0 to 1 (or more). */
export function meter(label, share, text) {
  const full = Math.max(0, Math.min(1, share || 0));
  const fill = h("span", { class: "fill" + (full > 0.9 ? " high" : full > 0.7 ? " warm" : "") });
  fill.style.setProperty("width", `${(full * 100).toFixed(1)}%`);
  return h("div", { class: "meter" },
    h("span", { class: "meter-label" }, label),
    h("span", { class: "track", role: "img", "aria-label": `${label}: ${text}` }, fill),
    h("span", { class: "meter-text", "aria-hidden": "true" }, text));
}

/** Return how something is, as a mark and a word: the colour is never alone. */
export function state(kind, text) {
  const marks = { good: "●", busy: "◐", bad: "▲", done: "○", odd: "◆" };
  return h("span", { class: `state ${kind}` }, h("span", { "aria-hidden": "true" }, marks[kind] + " "), text);
}

/** Return the age of a moment; it goes on counting while it is shown. */
export function age(stamp) {
  return stamp ? h("time", { datetime: stamp, title: stamp }, since(stamp)) : h("span", {}, "–");
}

/** Return a span of time in kubectl's short form. */
export function since(stamp, now = Date.now()) {
  const seconds = Math.max(0, Math.floor((now - Date.parse(stamp)) / 1000));
  if (seconds < 120) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 180) return `${minutes}m`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}h` : `${Math.floor(hours / 24)}d`;
}

setInterval(() => {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const text = since(time.getAttribute("datetime"));
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);
