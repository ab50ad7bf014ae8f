// Numbers, times and elements in the words of the page. Text is set as text, never as HTML.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const none = "–";

export function count(value) {
  if (value === null || value === undefined) return none;
  return Math.abs(value) < 100000 ? whole.format(value) : short.format(value);
}

export function rate(value) {
  if (value === null || value === undefined) return none;
  return value > 0 && value < 10 ? value.toFixed(1) : count(value);
}

export function ratio(value, digits = 3) {
  return value === null || value === undefined ? none : value.toFixed(digits);
}

export function percent(value, digits = 1) {
  return value === null || value === undefined ? none : `${(100 * value).toFixed(digits)} %`;
}

export function signed(value, digits = 4) {
  if (value === null || value === undefined) return "";
  return (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(digits);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return none;
  for (const [size, word] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${(seconds / size).toFixed(seconds / size < 10 ? 1 : 0)} ${word}`;
  }
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

export function date(ms) {
  return ms ? new Date(ms).toISOString().slice(0, 10) : none;
}

export function minute(ms) {
  return ms ? new Date(ms).toISOString().slice(0, 16).replace("T", " ") : none;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}

export function name(item) {
  return item.title || `item ${shopId(item)}`;
}

// What the shop calls an item: its own id, or the number that is one.
export function shopId(item) {
  return item.external_id;
}

export function under(item) {
  return [item.category, item.title ? shopId(item) : ""].filter(Boolean).join(" · ");
}

export function shortened(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function text(id, value) {
  const place = document.getElementById(id);
  if (place.textContent !== value) place.textContent = value;
}
