// Numbers and times in words.

const whole = new Intl.NumberFormat("en");
const cents = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});

export function count(number, what = "") {
  return what ? `${whole.format(number)} ${what}${number === 1 ? "" : "s"}` : whole.format(number);
}

export function money(dollars) {
  if (dollars === null || dollars === undefined) return "no known price";
  if (dollars >= 1 || dollars <= 0) return `$${cents.format(dollars)}`;
  return `$${dollars.toFixed(Math.min(9, 1 - Math.floor(Math.log10(dollars))))}`;  // two digits that count
}

export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 0.095) return `${Math.max(1, Math.round(value * 1000))} ms`;
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export function bytes(value) {
  if (value < 1e6) return `${Math.max(1, Math.round(value / 1e3))} kB`;
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}

/** Of one zone, whoever reads it where, as in a report and on the command line: `2026-11-26 20:01:07 UTC`. */
export function moment(unixSeconds) {
  if (!unixSeconds) return "";
  const date = new Date(Math.floor(unixSeconds) * 1000);
  if (Number.isNaN(date.getTime())) return "not known";
  return `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** What a shell takes for one word. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

export const STATES = {completion: "answered", failure: "failed", pending: "no outcome yet"};

/** How a run stands; where nothing is to be said of it, null. */
export const PHASES = {
  running: "live", paused: "paused", waiting: "waiting", stopped: "stopped", died: "died", open: "not finished", ended: null,
};
