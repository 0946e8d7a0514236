// The keys, and what they do.

import {h, replace} from "./dom.js";

const KEYS = [
  ["j, k", "the next row, the one before; also ↓ ↑ in a list"],
  ["Enter", "opens the row"],
  ["Esc", "back to the list"],
  ["n, p", "the next page of a list, the one before"],
  ["/", "search"],
  ["?", "these keys"],
];
const MARKING = [["g, b", "marks the row good, bad; again: takes it back"], ["m", "writes a note to the row"]];

export function showHelp(annotates) {
  const help = document.getElementById("help");
  const lines = [...KEYS, ...(annotates ? MARKING : [])].map(([keys, words]) =>
    h("tr", {}, h("th", {scope: "row"}, keys.split(", ").flatMap((key, place) => [place ? " " : "", h("kbd", {}, key)])),
      h("td", {}, words)));
  replace(help, h("h2", {id: "help-title"}, "Keys"), h("table", {}, h("tbody", {}, lines)),
    h("form", {method: "dialog"}, h("button", {autofocus: true}, "Close")));
  help.showModal();
}
