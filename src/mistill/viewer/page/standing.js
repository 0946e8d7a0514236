// How a run stands: whether it goes on, and how far it is.

import {h} from "./dom.js";
import {STANDINGS, count} from "./words.js";

export function standingBadge(standing) {
  const words = standing ? STANDINGS[standing.state] : null;
  return words ? h("span", {class: `badge ${standing.state}`, title: standing.told || null}, words) : null;
}

/** Why it does not go on, in a sentence. */
export function standingLine(standing) {
  if (!standing.told) return null;
  const isBad = standing.state === "died" || standing.state === "stopped";
  return h("p", {class: isBad ? "problem" : "quiet", dir: "auto"}, h("strong", {}, STANDINGS[standing.state]), " ", standing.told);
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
