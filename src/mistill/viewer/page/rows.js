// The rows of a run: search, filters, pages by key, live.

import {ask, query} from "./ask.js";
import {terms, valueOf, withTerm} from "./conditions.js";
import {h, replace, say} from "./dom.js";
import {sayOf} from "./marks.js";
import {listKeys} from "./runs.js";
import {bar, phaseLine} from "./phase.js";
import {STATES, count, money, moment, quoted} from "./words.js";

const PAGE = 100;

export async function showRows(main, given, app, isShown) {
  const {run} = given;
  const where = given.where ?? "";
  const search = given.search ?? "";
  const first = Number(given.first ?? 0);
  const address = (changes) => `/run?${query({run, where, search, ...changes})}`;
  app.setWay(...(app.home.single ? [] : [["Runs", "/"]]), [run, null]);

  const head = h("div", {class: "head"});
  const filters = h("form", {role: "search", class: "filters"});
  const notice = h("p", {class: "quiet", id: "so-far"}, "Looking…");
  const body = h("tbody", {});
  const table = h("table", {class: "list rows", "aria-describedby": "so-far"},
    h("thead", {}, h("tr", {}, [["Row", "number"], ["", ""], ["Input"], ["Answer"], ["Finish", ""], ["Tokens", "number"], ["Cost", "number"]].map(
      ([name, kind]) => h("th", {scope: "col", class: kind || null}, name || h("span", {class: "unseen"}, "State and mark"))))), body);
  const pages = h("nav", {class: "pages", "aria-label": "Pages"});
  replace(main, head, filters, notice, table, pages);

  const stop = new AbortController();
  const state = {run, where, search, first, lines: new Map(), next: null, summary: null, settings: new Map()};
  const before = {run, where, search, firsts: app.list?.run === run && app.list.where === where && app.list.search === search ? app.list.firsts : []};
  app.list = Object.assign(state, before, {address: address({first: first || null})});
  if (!state.firsts.includes(first)) state.firsts = [...state.firsts.filter((one) => one < first), first];

  const fill = async (from) => {
    let next = from;
    const seen = new Set();
    state.others = undefined;
    for (;;) {
      const page = await ask("rows", {run, where, search, first: next, limit: PAGE - seen.size}, stop.signal);
      for (const line of page.rows) {
        seen.add(line.row);
        put(line, state, body, app);
      }
      next = page.next;
      state.others = state.others === undefined ? page.others : state.others && page.others;  // a value that some had is there
      if (page.full || seen.size >= PAGE) break;
      state.told = null;
      notice.textContent = `Looking: ${count(next)} of ${count(page.last_position + 1)} rows so far, ${count(seen.size)} found…`;
    }
    for (const [row, line] of state.lines) {
      if (!seen.has(row)) {
        line.element.remove();
        state.lines.delete(row);
      }
    }
    state.next = next;
    state.isFilled = true;
    tell(notice, state, seen.size, address);
    replace(pages, pageLinks(state, address));
  };

  const summarize = async () => {
    const summary = await ask("run", {run}, stop.signal);
    const seen = (one) => JSON.stringify([one?.counts, one?.phase]);
    const changed = seen(summary) !== seen(state.summary);
    state.summary = summary;
    app.setPhase(summary.phase);
    if (changed || !head.firstChild) showHead(head, summary, app);
    if (state.isFilled && !state.lines.size) tell(notice, state, 0, address);
    if (changed && !filters.contains(document.activeElement)) showFilters(filters, state, app, address);
    return changed;
  };

  showFilters(filters, state, app, address);
  try {
    await fill(first);
  } catch (problem) {
    if (problem.status !== 400 || !(where || search)) throw problem;
    notice.textContent = problem.words;  // what was written wrong can be mended where it was written
    notice.classList.add("problem");
    notice.setAttribute("role", "alert");
    table.hidden = true;
    state.isWrong = true;
    filters.querySelector(".commands")?.remove();  // a command would be refused as well
  }
  const restored = app.focus !== undefined ? state.lines.get(app.focus) : undefined;
  restored?.link.focus();
  app.focus = undefined;
  summarize().then(() => {
    if (!isShown()) return;
    app.every(async () => {
      const wasLive = state.summary.live;
      const changed = await summarize();
      if ((changed || wasLive) && !state.isWrong) await fill(first);
      return state.summary.live ? Math.max(1000, state.summary.seconds * 10_000) : 5000;
    }, 1000);
  }).catch((error) => error.name !== "AbortError" && say(error.words ?? String(error), true));

  const links = () => [...body.querySelectorAll("a.opens")];
  const chosen = () => [...state.lines.values()].find((line) => line.element.contains(document.activeElement));
  const marking = (what) => () => {
    if (!app.home.annotate) return;
    if (chosen()) what(chosen());
    else say("No row is chosen: j and k choose one.");
  };
  return {
    end: () => stop.abort(),
    keys: {
      ...listKeys(links),
      "/": () => filters.querySelector("input[type=search]").focus(),
      n: () => state.next !== null && app.go(address({first: state.next})),
      p: () => goBack(state, app, address),
      g: marking((line) => line.mark("good")),
      b: marking((line) => line.mark("bad")),
      m: marking((line) => app.go(line.link.getAttribute("href"), {keys: ["m"]})),
      Escape: () => app.home.single || app.go("/"),
    },
  };
}

function tell(notice, state, found, address) {
  const text = found ? `${count(found, "row")}${state.next === null ? "" : ", and more on the next page"}` : nothing(state);
  if (state.told === text) return;  // a link in it may have the focus
  state.told = text;
  const isChosen = state.where || state.search;
  replace(notice, text,
    !found && state.first ? [" ", h("a", {href: address({first: null})}, "From the first row on")] : null,
    !found && isChosen ? [" ", h("a", {href: address({where: null, search: null, first: null})}, "Clear the conditions")] : null);
}

/** Why no row is there, and which are. */
function nothing({where, search, first, summary, others}) {
  const asked = [where, search && `the search for “${search}”`].filter(Boolean).join(" and ");
  const from = first ? ` from row ${count(first)} on` : "";
  const instead = others ? ` There, ${others}.` : "";
  if (!summary) return asked ? `No row${from} matches ${asked}.${instead}` : "No row was read yet.";
  const {counts} = summary;
  const done = counts.completions + counts.failures;
  const rows = summary.input_rows ?? counts.rows;
  if (!asked) return first ? `There is no row${from}, of ${count(rows, "row")}.` : rows ? "No row was read yet." : "The run has no row.";
  const states = [["answered", counts.completions], ["failed", counts.failures], ["open", Math.max(counts.pending, rows - done)]];
  const there = states.filter(([, number]) => number).map(([name, number]) => `${count(number)} ${name}`).join(", ");
  const known = [["error", "causes", summary.causes], ["finish_reason", "finish reasons", summary.finish_reasons], ["mark", "marks", summary.marks]]
    .filter(([name]) => terms(where).some((term) => term.startsWith(name)))
    .map(([, words, choices]) => ` Its ${words}: ${choices.map(({value, count: number}) => `${value} (${count(number)})`).join(", ") || "none"}.`);
  return `No row${from} matches ${asked}. The run has ${count(rows, "row")}${there ? `: ${there}` : ""}.${done ? "" : " None is answered yet."}${known.join("")}${instead}`;
}

function goBack(state, app, address) {
  if (state.first === 0) return;
  const earlier = state.firsts.filter((one) => one < state.first);
  app.go(address({first: earlier.at(-1) || null}));
}

function pageLinks(state, address) {
  const earlier = state.firsts.filter((one) => one < state.first).at(-1) ?? 0;
  return [
    state.first > 0 ? h("a", {href: address({first: earlier || null}), rel: "prev"}, "← Before") : null,
    state.next !== null ? h("a", {href: address({first: state.next}), rel: "next"}, "Next →") : null,
  ];
}

/** Puts a row into the table, or changes what has changed of it. */
function put(line, state, body, app) {
  const known = state.lines.get(line.row);
  const text = JSON.stringify(line);
  if (known?.text === text) return;
  const made = makeLine(line, state, app);
  made.text = text;
  state.lines.set(line.row, made);
  if (known) {
    const hadFocus = known.element.contains(document.activeElement);
    known.element.replaceWith(made.element);
    if (hadFocus) made.link.focus();
    return;
  }
  const after = [...body.children].find((one) => Number(one.dataset.row) > line.row);
  body.insertBefore(made.element, after ?? null);
}

function makeLine(line, state, app) {
  const link = h("a", {class: "opens", href: `/row?${query({run: state.run, row: line.row})}`}, count(line.row));
  const badge = markBadge(line.mark, line.note);
  const state_ = h("span", {class: `state ${line.state}`, title: STATES[line.state]}, h("span", {class: "unseen"}, STATES[line.state]));
  const answer = line.state === "failure"
    ? [h("strong", {class: "problem"}, line.error_kind ?? "failed"), " ", h("bdi", {}, line.error ?? "")]
    : line.state === "pending" ? h("span", {class: "quiet"}, "no outcome yet") : h("bdi", {}, line.answer || "(nothing)");
  const tags = [
    line.settings === null ? null : h("span", {class: "badge", title: "asked with other settings"}, `retry ${line.settings}`),
    line.asked_again ? h("span", {class: "badge"}, "to be asked again") : null,
    line.copied ? h("span", {class: "badge", title: "shares the outcome of an identical row"}, "copy") : null,
  ];
  const element = h("tr", {"data-row": line.row},
    h("th", {scope: "row", class: "number"}, link), h("td", {class: "signs"}, state_, badge),
    h("td", {class: "long", "data-name": "Input"}, h("bdi", {}, line.input)), h("td", {class: "long", "data-name": "Answer"}, answer, tags),
    h("td", {"data-name": "Finish"}, line.finish_reason ?? ""), h("td", {class: "number", "data-name": "Tokens"}, line.output_tokens ? count(line.output_tokens) : ""),
    h("td", {class: "number", "data-name": "Cost"}, costOf(line)));
  element.addEventListener("click", (event) => {
    if (!event.target.closest("a") && !String(getSelection())) link.click();
  });
  const mark = async (which) => {
    if (line.state === "pending") return say(`row ${line.row} has no outcome yet`, true);
    const said = await sayOf(state.run, line.row, line.ended_at, line.mark === which ? null : which, line.note);
    if (said) put({...line, mark: said.mark, note: said.note}, state, element.parentNode, app);
  };
  return {element, link, mark};
}

function costOf(line) {
  if (line.state === "pending" || (line.cost === null && !line.output_tokens)) return "";
  return line.cost === null ? h("span", {title: "no known price"}, "–") : money(line.cost);
}

export function markBadge(mark, note) {
  if (!mark && !note) return null;
  const words = [mark, note].filter(Boolean).join(": ");
  return h("span", {class: `mark ${mark ?? "note"}`, title: words}, mark === "good" ? "✓" : mark === "bad" ? "✗" : "✎", h("span", {class: "unseen"}, words));
}

function showHead(head, summary, app) {
  const {counts} = summary;
  const done = counts.completions + counts.failures;
  const rows = summary.input_rows ?? counts.rows;
  const open = Math.max(counts.pending, rows - done);
  const figures = [
    ["rows", count(rows)], ["answered", count(counts.completions)], ["failed", count(counts.failures), counts.failures > 0],
    ["open", count(open)], ["tokens in", count(counts.input_tokens)], ["tokens out", count(counts.output_tokens)], ["cost", money(counts.cost)],
  ];
  const isOpen = head.querySelector("details")?.open ?? false;
  replace(head,
    h("h1", {}, h("bdi", {}, summary.name)),
    h("p", {class: "quiet"}, summary.kind, " · ", summary.model, summary.started_at ? ` · started ${moment(summary.started_at)}` : ""),
    h("dl", {class: "figures"}, figures.map(([name, value, isBad]) => h("div", {}, h("dt", {}, name), h("dd", {class: isBad ? "problem" : null}, value)))),
    rows ? bar(counts.completions, counts.failures, open) : null,
    phaseLine(summary.phase),
    h("details", {open: isOpen}, h("summary", {}, "What was asked"), h("pre", {}, summary.settings)),
    h("p", {class: "others"}, otherViews(summary, app)));
}

function otherViews(summary, app) {
  const links = [];
  if (summary.replaced) links.push(h("a", {href: `/side-by-side?${query({run: summary.name})}`}, "Before and after rows were asked again, side by side"));
  if (!app.home.single && app.home.runs.length > 1) {
    links.push(h("a", {href: `/side-by-side?${query({run: summary.name, with: app.home.runs.find((one) => one.name !== summary.name).name})}`}, "Beside another run"));
  }
  return links.flatMap((link, place) => (place ? [" · ", link] : [link]));
}

function showFilters(form, state, app, address) {
  const {summary, where} = state;
  const searchField = h("input", {type: "search", id: "search", value: state.search, placeholder: "text in rows, answers, errors", autocomplete: "off"});
  const whereField = h("input", {type: "text", id: "where", value: where, placeholder: "error=rate_limited, score>=4", autocomplete: "off", spellcheck: "false"});
  const rowField = h("input", {type: "text", id: "row", placeholder: "number, or id", autocomplete: "off", spellcheck: "false"});
  const choose = (name, words, values) => {
    const now = valueOf(where, name);
    const known = now && !values.some(([value]) => value === now) ? [...values, [now, summary && now !== "null" ? `${now} (0)` : now]] : values;
    const select = h("select", {id: `choice-${name}`, onchange: () => app.go(address({where: withTerm(whereField.value, name, select.value), first: null}))},
      h("option", {value: ""}, "any"), known.map(([value, shown]) => h("option", {value, selected: value === now}, shown)));
    return h("div", {}, h("label", {for: select.id}, words), select);
  };
  const counted = (choices) => (choices ?? []).map(({value, count: number}) => [value, `${value} (${count(number)})`]);
  form.onsubmit = (event) => {
    event.preventDefault();
    if (rowField.value.trim()) app.go(`/row?${query({run: state.run, row: rowField.value.trim()})}`);
    else app.go(address({where: whereField.value, search: searchField.value, first: null}));
  };
  replace(form,
    h("div", {class: "wide"}, h("label", {for: "search"}, "Search ", h("kbd", {}, "/")), searchField),
    choose("state", "State", Object.entries(STATES)),
    choose("error", "Cause", counted(summary?.causes)),
    choose("finish_reason", "Finish reason", counted(summary?.finish_reasons)),
    choose("mark", "Mark", [["good", "good"], ["bad", "bad"]]),
    h("div", {}, h("label", {for: "row"}, "Go to row"), rowField),
    h("div", {class: "wide"}, h("label", {for: "where"}, "Condition, as ", h("code", {}, "--where")), whereField),
    h("div", {class: "buttons"}, h("button", {type: "submit"}, "Show"),
      where || state.search ? h("a", {href: address({where: null, search: null, first: null})}, "Show all rows") : null),
    where && summary && !state.isWrong ? byCommand(summary.named, where) : null);
}

function byCommand(named, where) {
  const condition = `${named} --where ${quoted(terms(where).join(", "))}`;
  return h("p", {class: "wide quiet commands"}, "These rows: ", h("code", {}, `mistill rows ${condition}`), h("br"),
    "Asked again: ", h("code", {}, `mistill retry ${condition} …`));
}
