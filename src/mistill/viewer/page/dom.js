// Elements, made so that text is always text: nothing here takes markup.

const UNSEEN =
  "\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b\\u200e\\u200f\\u2060-\\u206f\\u3164\\ufeff" +
  "\\uffa0\\ufff0-\\ufff8\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}";
const EMOJI = "\\u203c\\u2049\\u2100-\\u2bff\\u3030\\u303d\\u3297\\u3299\\ufe0f\\u{1f000}-\\u{1faff}";
const JOINED = `${EMOJI}\\u0600-\\u109f\\u1700-\\u1cff`;
const WRITTEN_OUT = new RegExp(
  `[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069${UNSEEN}]` +
    `|(?<![${JOINED}])[\\u200c\\u200d]|[\\u200c\\u200d](?![${JOINED}])` +
    `|(?<![${EMOJI}0-9#*\\u00a9\\u00ae])[\\ufe00-\\ufe0f]`,
  "gu",
);

/** Text with what would be obeyed, turn what stands beside it, or not be seen, written out, as `mistill.visible` does. */
export function visible(text) {
  return text.replace(WRITTEN_OUT, (found) => {
    const code = found.codePointAt(0).toString(16);
    if (found === "\r") return "\\r";
    if (code.length > 4) return `\\U${code.padStart(8, "0")}`;
    return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
  });
}

/** An element: `h("a", {href: "/"}, "words", another)`. `on…` are listeners; null, undefined and false are left out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : visible(String(value)));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(typeof child === "string" ? visible(child) : child);
  }
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

/** Says something to whoever hears the page, and shows it at its foot. */
export function say(text, isProblem = false) {
  const place = document.getElementById("said");
  place.textContent = visible(text);
  place.classList.toggle("problem", isProblem);
  clearTimeout(silence);
  if (!isProblem) silence = setTimeout(() => place.replaceChildren(), 5000);
}

let silence;
