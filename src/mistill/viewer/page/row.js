// One row: what was asked, what came, each attempt, earlier outcomes; marks.

import {ask, query} from "./ask.js";
import {h, replace} from "./dom.js";
import {sayOf} from "./marks.js";
import {markBadge} from "./rows.js";
import {STATES, count, money, moment, seconds} from "./words.js";

export async function showRow(main, given, app, isShown) {
  const {run} = given;
  const back = app.list?.run === run ? app.list.address : `/run?${query({run})}`;
  let row = await ask("row", {run, row: given.row ?? 0});  // its place, or its id
  if (!isShown()) return null;
  const number = row.row;
  app.setWay(...(app.home.single ? [] : [["Runs", "/"]]), [run, back], [`row ${count(number)}`, null]);
  const text = (value, name) => textOf(value, run, number, name);

  const title = h("div", {class: "head row-head"});
  const verdict = h("section", {class: "verdict", "aria-label": "Mark"});
  const rest = h("div", {});
  replace(main, title, verdict, rest);

  const draw = () => {
    replace(title, h("h1", {}, `Row ${count(row.row)} `, row.row_id ? h("small", {}, h("bdi", {}, row.row_id)) : null),
      h("p", {}, h("span", {class: `state ${row.outcome.state}`}), " ", outcomeWords(row.outcome),
        row.copied ? " · shares the outcome of an identical row" : "", row.asked_again ? " · a retry is to ask it again" : ""),
      h("nav", {class: "pages", "aria-label": "Rows"}, h("button", {type: "button", onclick: () => step(-1)}, "← Before ", h("kbd", {}, "k")),
        h("button", {type: "button", onclick: () => step(1)}, "Next ", h("kbd", {}, "j"), " →"), h("a", {href: back}, "List ", h("kbd", {}, "Esc"))));
    replace(rest,
      h("div", {class: "two"},
        h("div", {},
          section("Row", row.record.length ? h("dl", {class: "columns"}, row.record.map((part, place) => [h("dt", {}, h("bdi", {}, part.name)), h("dd", {}, text(part.text, `record.${place}`))])) : h("p", {class: "quiet"}, "no columns")),
          section("Prompt", row.prompt_error ? h("p", {class: "problem"}, `none can be made of the row: ${row.prompt_error}`) : row.prompt.map((part, place) => [h("h3", {class: "role"}, part.name), text(part.text, `prompt.${place}`)]))),
        h("div", {},
          section("Answer", problemOf(row.outcome.error), row.outcome.answers.map((answer, place) => text(answer, `answer.${place}`)),
            row.outcome.answers.length || row.outcome.error ? null : h("p", {class: "quiet"}, STATES[row.outcome.state])),
          row.value ? section("Columns of its record", text(row.value, "value")) : null)),
      section(`Attempts (${row.attempts.length})`, row.attempts.length ? row.attempts.map((attempt) => attemptOf(attempt, text)) : h("p", {class: "quiet"}, "none")),
      row.earlier.length ? section(`Earlier outcomes (${row.earlier.length})`, row.earlier.map((outcome, place) => earlierOf(outcome, place, text)).reverse()) : null);
  };

  const drawVerdict = () => showVerdict(verdict, run, row, app, (said) => {
    row.outcome.mark = said.mark;
    row.outcome.note = said.note;
    drawVerdict();
  });

  /** To the row beside it in the list that one came from, else in the input. */
  const step = async (by) => {
    const list = app.list?.run === run ? [...app.list.lines.keys()].sort((one, other) => one - other) : [];
    const place = list.indexOf(number);
    let next = place < 0 ? number + by : list[place + by];
    if (next === undefined && by > 0 && place >= 0 && app.list.next !== null) {
      const page = await ask("rows", {run, where: app.list.where, search: app.list.search, first: app.list.next, limit: 1});
      next = page.rows[0]?.row;
    }
    if (next === undefined || next < 0) return;
    app.go(`/row?${query({run, row: next})}`, {replaces: true});
  };

  draw();
  drawVerdict();
  app.every(async () => {  // it may be answered while one looks
    const summary = await ask("run", {run});
    app.setPhase(summary.phase);
    if (!summary.live) return 5000;
    const now = await ask("row", {run, row: number});
    if (JSON.stringify(now) !== JSON.stringify(row)) {
      row = now;
      draw();
      if (!verdict.contains(document.activeElement)) drawVerdict();
    }
    return 2000;
  }, 500);
  const mark = (which) => () => verdict.querySelector(`button[data-mark=${which}]`)?.click();
  return {
    keys: {
      j: () => step(1), k: () => step(-1), g: mark("good"), b: mark("bad"), m: () => verdict.querySelector("textarea")?.focus(),
      Escape: () => {
        app.focus = number;
        app.go(back);
      },
    },
  };
}

let keepUnkept = () => {};  // of the note that was drawn last
addEventListener("pagehide", () => keepUnkept());

function showVerdict(place, run, row, app, done) {
  const {outcome} = row;
  place.hidden = !app.home.annotate && !outcome.mark && !outcome.note;
  if (!app.home.annotate) {
    replace(place, markBadge(outcome.mark, null), " ", outcome.mark ? `marked ${outcome.mark}` : "", outcome.note ? h("p", {class: "note"}, h("bdi", {}, outcome.note)) : null);
    return;
  }
  if (outcome.state === "pending") {
    replace(place, h("p", {class: "quiet"}, "It can be marked once it has an outcome."));
    return;
  }
  const note = h("textarea", {id: "note", rows: 2, maxlength: 10000, value: outcome.note ?? ""});
  const keep = async (mark) => {
    const said = await sayOf(run, row.row, outcome.ended_at, mark, note.value || null);
    if (said) done(said);
  };
  const button = (mark, key) => h("button", {type: "button", "data-mark": mark, class: `mark ${mark}`, "aria-pressed": String(outcome.mark === mark),
    onclick: () => keep(outcome.mark === mark ? null : mark)}, mark === "good" ? "✓ Good " : "✗ Bad ", h("kbd", {}, key));
  note.addEventListener("change", () => keep(outcome.mark));
  keepUnkept = () => note.isConnected && note.value !== (outcome.note ?? "") && keep(outcome.mark);
  note.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) note.blur();
  });
  replace(place, button("good", "g"), button("bad", "b"), h("div", {class: "note"}, h("label", {for: "note"}, "Note ", h("kbd", {}, "m")), note, h("span", {class: "quiet"}, "kept when you leave it, or by ", h("kbd", {}, "Ctrl"), " ", h("kbd", {}, "Enter"))));
}

function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), children);
}

function textOf(value, run, row, name) {
  const isCode = name.startsWith("raw") || /^\s*[[{]/.test(value.text);
  const pre = h("pre", {dir: "auto", class: isCode ? null : "prose"}, value.text || h("span", {class: "quiet"}, "(empty)"));
  if (value.chars <= value.text.length) return pre;
  return [pre, h("p", {class: "quiet"}, `The first ${count(value.text.length)} of ${count(value.chars)} characters. `,
    h("a", {href: `/api/text?${query({run, row, name})}`, download: ""}, "Save all of it"))];
}

function outcomeWords(outcome) {
  if (outcome.state === "pending") return STATES.pending;
  const took = outcome.input_tokens || outcome.output_tokens;
  const parts = [STATES[outcome.state], outcome.finish_reason, took ? `${count(outcome.input_tokens)} tokens in, ${count(outcome.output_tokens)} out` : null,
    took ? money(outcome.cost) : null, moment(outcome.ended_at), outcome.settings ? `with ${outcome.settings}` : null];
  return parts.filter(Boolean).join(" · ");
}

function problemOf(error) {
  return error ? h("p", {class: "problem", dir: "auto"}, h("strong", {}, error.kind), " ", error.message, error.hint ? h("span", {class: "hint"}, ` – ${error.hint}`) : null) : null;
}

function attemptOf(attempt, text) {
  const ended = (attempt.status ?? (attempt.job ? "no answer yet" : "in flight, or cut off by a kill")).replaceAll("_", " ");
  const figures = [moment(attempt.sent_at), seconds(attempt.seconds), attempt.model, attempt.job ? `in job ${attempt.job}` : null,
    attempt.input_tokens === null ? null : `${count(attempt.input_tokens)} tokens in${attempt.cached_tokens ? ` (${count(attempt.cached_tokens)} cached)` : ""}, ${count(attempt.output_tokens ?? 0)} out`,
    attempt.input_tokens === null ? null : money(attempt.cost), attempt.settings ? `with ${attempt.settings}` : null,
    attempt.since ? `made since ${attempt.since}` : null,
    attempt.damaged ? "damaged in the ledger: these figures are not what it wrote" : null];
  return h("article", {class: "attempt"},
    h("p", {}, h("strong", {class: attempt.status === "answered" && !attempt.error ? null : "problem"}, ended), " ", h("span", {class: "quiet"}, figures.filter(Boolean).join(" · "))),
    problemOf(attempt.error),
    attempt.raw ? h("details", {}, h("summary", {}, `Raw answer (${count(attempt.raw.chars, "character")})`), text(attempt.raw, `raw.${attempt.number}`)) : null);
}

function earlierOf(outcome, place, text) {
  return h("article", {class: "attempt"}, h("p", {}, h("span", {class: `state ${outcome.state}`}), " ", outcomeWords(outcome), " ", markBadge(outcome.mark, outcome.note)),
    problemOf(outcome.error), outcome.answers.map((answer, number) => text(answer, `earlier.${place}.${number}`)));
}
