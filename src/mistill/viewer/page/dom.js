// Elements, made so that text is always text: nothing here takes markup.

const OBEYED = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/** Text with what would be obeyed, or turn what stands beside it, written out, as `mistill.visible` does. */
export function visible(text) {
  return text.replace(OBEYED, (found) => {
    const code = found.charCodeAt(0).toString(16);
    return found === "\r" ? "\\r" : code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
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
