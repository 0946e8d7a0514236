// Conditions as --where has them: terms, a comma between.

/** The terms of a condition, commas in quotes left alone. */
export function terms(where) {
  const found = where.match(/(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,"'])+/g) ?? [];
  return found.map((term) => term.trim()).filter(Boolean);
}

/** The value of the term `name=…`, or "". */
export function valueOf(where, name) {
  const term = terms(where).find((one) => one.startsWith(`${name}=`));
  if (term === undefined) return "";
  const value = term.slice(name.length + 1).trim();
  return /^(".*"|'.*')$/s.test(value) ? value.slice(1, -1).replace(/\\(.)/gs, "$1") : value;
}

/** The condition with the term `name=value` in place of one of that name; without it where the value is "". */
export function withTerm(where, name, value) {
  const rest = terms(where).filter((one) => !one.startsWith(`${name}=`));
  if (value !== "") rest.push(`${name}=${plain(value)}`);
  return rest.join(", ");
}

function plain(value) {
  const isPlain = /^[^\s=!<>,"']+$/.test(value) && value !== "null";
  return isPlain ? value : `"${value.replace(/(["\\])/g, "\\$1")}"`;
}
