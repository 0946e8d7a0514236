// Good, bad, and a note.

import {tell} from "./ask.js";
import {say} from "./dom.js";

/** Marks an outcome; gives what is said of it now, null where that did not go. */
export async function sayOf(run, row, outcomeAt, mark, note) {
  try {
    const said = await tell("mark", {run, row, outcome_at: outcomeAt, mark, note});
    say(`row ${row}: ${said.mark ?? "no mark"}${said.note ? ", with a note" : ""}`);
    return said;
  } catch (problem) {
    say(problem.words ?? String(problem), true);
    return null;
  }
}
