// Elements, made so that text is always text: nothing here takes markup.

/** An element: `h("a", {href: "/"}, "words", another)`. `on…` are listeners; null, undefined and false are left out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
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
  place.textContent = text;
  place.classList.toggle("problem", isProblem);
  clearTimeout(silence);
  if (!isProblem) silence = setTimeout(() => place.replaceChildren(), 5000);
}

let silence;
