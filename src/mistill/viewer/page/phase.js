// How a run stands: whether it goes on, and how far it is.

import {h} from "./dom.js";
import {PHASES, count} from "./words.js";

export function phaseBadge(phase) {
  const words = phase ? PHASES[phase.name] : null;
  return words ? h("span", {class: `badge ${phase.name}`, title: phase.told || null}, words) : null;
}

/** Why it does not go on, in a sentence. */
export function phaseLine(phase) {
  if (!phase.told) return null;
  const isBad = phase.name === "died" || phase.name === "stopped";
  return h("p", {class: isBad ? "problem" : "quiet", dir: "auto"}, h("strong", {}, PHASES[phase.name]), " ", phase.told);
}

/** Answered, failed and open rows, one beside the other. */
export function bar(answered, failed, open) {
  const parts = [["completion", answered], ["failure", failed], ["pending", open]];
  const words = `${count(answered)} answered, ${count(failed)} failed, ${count(open)} open`;
  return h("div", {class: "bar", role: "img", "aria-label": words, title: words}, parts.filter(([, rows]) => rows > 0).map(([kind, rows]) => {
    const part = h("span", {class: kind});
    part.style.flexGrow = rows;
    return part;
  }));
}
