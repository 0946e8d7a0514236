// Two runs, or two settings of one, side by side.

import {ask, query} from "./ask.js";
import {difference} from "./difference.js";
import {h, replace} from "./dom.js";
import {markBadge} from "./rows.js";
import {listKeys} from "./runs.js";
import {STATES, count, money} from "./words.js";

const PAGE = 50;

export async function showSides(main, given, app, isShown) {
  const {run} = given;
  const first = Number(given.first ?? 0);
  const differing = given.differing ?? "1";
  const [left, right] = [given.left ?? "earlier", given.right ?? "now"];
  const address = (changes) => `/side-by-side?${query({run, with: given.with, left: given.left, right: given.right, differing: given.differing, ...changes})}`;
  app.setWay(...(app.home.single ? [] : [["Runs", "/"]]), [run, `/run?${query({run})}`], ["side by side", null]);

  const summary = await ask("run", {run});
  if (!isShown()) return null;
  const form = chooser(summary, {run, other: given.with ?? "", left, right, differing}, app, address);
  const notice = h("p", {class: "quiet", role: "status"}, "Looking…");
  const list = h("div", {class: "pairs"});
  const pages = h("nav", {class: "pages", "aria-label": "Pages"});
  const names = given.with ? [run, given.with] : [sideWords(left, summary), sideWords(right, summary)];
  replace(main, h("h1", {}, "Side by side"), form, notice, h("div", {class: "two names", "aria-hidden": "true"}, names.map((name) => h("strong", {}, h("bdi", {}, name)))), list, pages);

  const stop = new AbortController();
  let next = first;
  let found = 0;
  const fill = async () => {
    for (;;) {
      const asked = given.with ? {with: given.with} : {left, right};
      const page = await ask("side-by-side", {run, ...asked, differing, first: next, limit: PAGE - found}, stop.signal);
      found += page.rows.length;
      list.append(...page.rows.map((pair) => pairOf(pair, run, given.with ?? run, names)));
      next = page.next;
      if (page.full || found >= PAGE) break;
      notice.textContent = `Looking: ${count(next)} of ${count(page.last_position + 1)} rows so far, ${count(found)} found…`;
    }
    const what = differing === "1" ? " that differ" : "";
    notice.textContent = found ? `${count(found, "row")}${what}${next === null ? "" : ", and more on the next page"}` : `There are no rows${what}${given.with ? "" : " and have both"}.`;
    replace(pages, first > 0 ? h("a", {href: address({first: null})}, "← To the first") : null,
      next === null ? null : h("a", {href: address({first: next}), rel: "next"}, "Next →"));
  };
  fill().catch((error) => {
    if (error.name !== "AbortError") notice.textContent = error.words ?? String(error);
  });
  return {
    end: () => stop.abort(),
    keys: {
      ...listKeys(() => [...list.querySelectorAll("a.opens")]),
      n: () => next !== null && app.go(address({first: next})),
      p: () => history.back(),
      Escape: () => app.go(`/run?${query({run})}`),
    },
  };
}

function sideWords(side, summary) {
  if (side === "earlier") return "the outcome before";
  if (side === "now") return "the outcome now";
  if (side === "own") return "the run's own settings";
  return `retry ${side}: ${summary.retries.find((one) => String(one.number) === side)?.changes ?? ""}`;
}

function chooser(summary, now, app, address) {
  const select = (id, words, values, value, change) => {
    const element = h("select", {id, onchange: () => app.go(address({...change(element.value), first: null}))},
      values.map(([one, shown]) => h("option", {value: one, selected: one === value}, shown)));
    return h("div", {}, h("label", {for: id}, words), element);
  };
  const others = app.home.single ? [] : app.home.runs.filter((run) => run.name !== now.run && !run.problem).map((run) => [run.name, run.name]);
  const settings = ["earlier", "now", "own", ...summary.retries.map((one) => String(one.number))].map((side) => [side, sideWords(side, summary)]);
  const itself = summary.replaced || !now.other ? [["", "itself, before and after rows were asked again"]] : [];
  const only = h("input", {type: "checkbox", id: "only", checked: now.differing === "1", onchange: () => app.go(address({differing: only.checked ? null : "0", first: null}))});
  return h("form", {class: "filters", onsubmit: (event) => event.preventDefault()},
    others.length ? select("other", `${now.run} beside`, [...itself, ...others], now.other, (value) => ({with: value || null, left: null, right: null})) : null,
    now.other ? null : select("left", "Left", settings, now.left, (value) => ({left: value})),
    now.other ? null : select("right", "Right", settings, now.right, (value) => ({right: value})),
    now.other ? h("div", {}, h("a", {href: `/side-by-side?${query({run: now.other, with: now.run})}`}, "Swap")) : null,
    h("div", {class: "check"}, only, h("label", {for: "only"}, "only rows that differ")));
}

function pairOf(pair, run, other, names) {
  const both = !pair.fields && pair.right && pair.left.state === "completion" && pair.right.state === "completion";
  const [one, two] = both ? difference(pair.left.answer.text, pair.right.answer.text) : [null, null];
  const {fields} = pair;
  return h("article", {class: "pair", "aria-label": `Row ${pair.row}`},
    h("p", {}, h("a", {class: "opens", href: `/row?${query({run, row: pair.row})}`}, `Row ${count(pair.row)}`), " ", h("bdi", {class: "quiet"}, pair.input)),
    fields ? h("table", {class: "fields"}, h("colgroup", {}, h("col", {class: "name"})),
      h("thead", {class: "unseen"}, h("tr", {}, ["Field", ...names].map((name) => h("th", {scope: "col"}, name)))),
      h("tbody", {}, fields.map((field) => fieldOf(field, names)))) : null,
    h("div", {class: "two"}, sideOf(pair.left, one, run, names[0], "del", Boolean(fields)),
      pair.right ? sideOf(pair.right, two, other, names[1], "ins", Boolean(fields)) : h("p", {class: "quiet side"}, "no such row")));
}

/** A field of both answers; what differs in its values is marked. */
function fieldOf(field, names) {
  const [one, two] = field.differs && field.left && field.right ? difference(field.left.text, field.right.text) : [null, null];
  const value = (side, parts, kind, name) => h("td", {dir: "auto", "data-name": name},
    side === null ? h("span", {class: "quiet"}, "no such field")
      : parts ? marked(parts, kind) : field.differs && side.text ? h(kind, {}, side.text) : side.text || h("span", {class: "quiet"}, "(empty)"),
    side ? cutOf(side) : null);
  return h("tr", {class: field.differs ? "differs" : null}, h("th", {scope: "row"}, h("bdi", {}, field.name)),
    value(field.left, one, "del", names[0]), value(field.right, two, "ins", names[1]));
}

function marked(parts, kind) {
  return parts.map(([words, same]) => (same ? words : h(kind, {}, words)));
}

function cutOf(text) {
  return text.chars > text.text.length ? h("p", {class: "quiet"}, `the first ${count(text.text.length)} of ${count(text.chars)} characters`) : null;
}

function sideOf(side, parts, run, name, kind, hasFields) {
  return h("div", {class: "side"}, h("span", {class: "unseen"}, name),
    side.error ? h("p", {class: "problem", dir: "auto"}, h("strong", {}, side.error.kind), " ", side.error.message) : null,
    side.state === "pending" ? h("p", {class: "quiet"}, STATES.pending) : null,
    side.answer.text && !hasFields ? [h("pre", {dir: "auto", class: "prose"}, parts ? marked(parts, kind) : side.answer.text), cutOf(side.answer)] : null,
    h("p", {class: "quiet"}, [side.finish_reason, side.output_tokens ? count(side.output_tokens, "token") : null, side.state === "pending" || (side.cost === null && !side.output_tokens) ? null : money(side.cost)].filter(Boolean).join(" · "),
      " ", markBadge(side.mark, side.note), run ? [" ", h("a", {href: `/row?${query({run, row: side.row})}`}, `row ${count(side.row)}`)] : null));
}
