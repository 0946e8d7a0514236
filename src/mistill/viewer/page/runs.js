// The runs of a folder.

import {ask, query} from "./ask.js";
import {h, replace} from "./dom.js";
import {phaseBadge} from "./phase.js";
import {bytes, count, moment, money} from "./words.js";

export async function showRuns(main, _, app, isShown) {
  app.home = await ask("home");
  if (app.home.single) {
    await app.go(`/run?${query({run: app.home.single})}`, {replaces: true});
    return null;
  }
  app.setWay(["Runs", null]);
  const runs = app.home.runs;
  const lines = runs.map(runLine);
  const body = h("tbody", {}, lines.map((line) => line.element));
  replace(main,
    h("h1", {}, "Runs"),
    h("p", {class: "quiet"}, "in ", h("code", {}, app.home.place)),
    runs.length
      ? h("table", {class: "list"},
        h("thead", {}, h("tr", {}, ["Run", "Model", "Rows", "Answered", "Failed", "Cost", "Started", "Ledger"].map((name, place) =>
          h("th", {scope: "col", class: place > 1 && place < 6 ? "number" : null}, name)))),
        body)
      : h("p", {class: "notice"}, "There is no run in this folder: a run makes a ledger beside its output."));
  if (app.home.left_out) {
    main.append(h("p", {class: "quiet"}, `${count(app.home.left_out, "older run")} ${app.home.left_out === 1 ? "is" : "are"} not listed: `,
      h("code", {}, "mistill view"), " with a folder of this one, or with the output of a run, shows them."));
  }
  fill(lines, isShown);
  const known = (list) => JSON.stringify(list.map((run) => [run.name, run.live, run.problem]));
  app.every(async () => {  // runs begin and end while one looks
    const now = await ask("home");
    if (known(now.runs) !== known(runs)) {
      await app.go("/", {replaces: true});
      return null;
    }
    await Promise.all(lines.filter((line) => line.run.live).map((line) => line.update()));
    return runs.some((run) => run.live) ? 2000 : 5000;
  }, 2000);
  return {keys: listKeys(() => [...body.querySelectorAll("a.opens")])};
}

/** Counts come one after the other: those of a million rows take a second. */
async function fill(lines, isShown) {
  for (const line of lines) {
    if (!isShown()) return;
    if (!line.run.problem) await line.update();
  }
}

function runLine(run) {
  const cells = {rows: h("td", {class: "number"}, "…"), good: h("td", {class: "number"}), bad: h("td", {class: "number"}), cost: h("td", {class: "number"})};
  const phase = h("span", {}, phaseBadge(run.live ? {name: "running"} : null));
  const element = h("tr", {},
    h("th", {scope: "row"}, h("a", {class: "opens", href: `/run?${query({run: run.name})}`}, h("bdi", {}, run.name)), " ", phase),
    run.problem ? h("td", {colspan: 5, class: "problem"}, run.problem) : [
      h("td", {"data-name": "Model"}, run.model ?? ""), cells.rows, cells.good, cells.bad, cells.cost],
    h("td", {"data-name": "Started"}, moment(run.started_at)),
    h("td", {"data-name": "Ledger"}, bytes(run.bytes)));
  for (const [name, words] of [["rows", "Rows"], ["good", "Answered"], ["bad", "Failed"], ["cost", "Cost"]]) cells[name].dataset.name = words;
  const update = async () => {
    try {
      const summary = await ask("run", {run: run.name});
      const counts = summary.counts;
      cells.rows.textContent = count(summary.input_rows ?? counts.rows);
      cells.good.textContent = count(counts.completions);
      cells.bad.textContent = count(counts.failures);
      cells.bad.classList.toggle("problem", counts.failures > 0);
      cells.cost.textContent = money(counts.cost);
      replace(phase, phaseBadge(summary.phase));
    } catch (problem) {
      replace(cells.rows, h("span", {class: "problem", title: problem.words ?? String(problem)}, "unreadable"));
    }
  };
  return {run, element, update};
}

/** j and k among links. */
export function listKeys(links) {
  const move = (by) => {
    const all = links();
    const now = all.indexOf(document.activeElement);
    const next = now < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(now + by, 0), all.length - 1);
    all[next]?.focus();
    all[next]?.closest("tr, article")?.scrollIntoView({block: "nearest"});
  };
  return {j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1)};
}
