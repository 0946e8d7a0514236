// Which view is shown, where one is, and keys.

import {Problem, ask} from "./ask.js";
import {h, replace, say, visible} from "./dom.js";
import {showHelp} from "./keys.js";
import {showRow} from "./row.js";
import {showRows} from "./rows.js";
import {showRuns} from "./runs.js";
import {showSides} from "./sides.js";
import {phaseBadge} from "./phase.js";

const VIEWS = {"/": showRuns, "/run": showRows, "/row": showRow, "/side-by-side": showSides};

const main = document.getElementById("main");
const app = {home: null, view: null, list: null, go, back: null, setWay, setPhase, every};
let shown = 0;
let timers = [];
let early = [];  // keys that came while a view was being made: they are for that one

/** Goes to an address of this page, and presses keys there. */
export function go(address, {replaces = false, keys = []} = {}) {
  history[replaces ? "replaceState" : "pushState"](null, "", address);
  early.push(...keys);
  return show();
}

/** What stands in front: pairs of words and addresses, the last one without. */
function setWay(...steps) {
  const links = steps.map(([words, address]) =>
    address ? h("a", {href: address}, words) : h("span", {"aria-current": "page"}, words));
  replace(document.getElementById("way"), links.flatMap((link, place) => (place ? [" / ", link] : [link])));
  document.title = visible(`${steps.at(-1)[0]} · mistill`);
}

function setPhase(phase) {
  replace(document.getElementById("phase"), phaseBadge(phase));
}

/** Does something now and then, as long as this view is shown; `work` gives the milliseconds until it is done again. */
function every(work, firstMs) {
  const number = shown;
  const again = async () => {
    let waitMs = 2000;
    try {
      if (!document.hidden) waitMs = await work();
    } catch (error) {
      say(error instanceof Problem ? error.words : String(error), true);
      waitMs = 5000;
    }
    if (number === shown && waitMs !== null) timers.push(setTimeout(again, waitMs));
  };
  timers.push(setTimeout(again, firstMs));
}

async function show() {
  const number = ++shown;
  timers.forEach(clearTimeout);
  timers = [];
  app.view?.end?.();
  app.view = null;
  say("");
  setPhase(null);
  const place = new URL(location.href);
  try {
    app.home ??= await ask("home");
    const view = await VIEWS[place.pathname](main, Object.fromEntries(place.searchParams), app, () => number === shown);
    if (number === shown) app.view = view;
    else view?.end?.();
    while (number === shown && early.length) await view?.keys?.[early.shift()]?.();
  } catch (error) {
    if (number !== shown || error.name === "AbortError") return;
    early = [];
    app.view = {};  // it has no keys
    const words = error instanceof Problem ? error.message : String(error);
    replace(main, h("div", {class: "notice", role: "alert"}, h("h1", {}, "This cannot be shown"), h("p", {}, words),
      error.hint ? h("p", {}, error.hint) : null, app.home?.single ? null : h("p", {}, h("a", {href: "/"}, "All runs"))));
    console.error(error);
  }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || link.hasAttribute("download") || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  early = [];
  go(link.getAttribute("href")).then(() => main.focus({preventScroll: true}));
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
  const writes = event.target.closest?.("input, textarea, select");
  if (writes) {
    if (event.key === "Escape") writes.blur();
    return;
  }
  if (event.key === "?") showHelp(app.home?.annotate);
  else if (!app.view) return void early.push(event.key);
  else if (!app.view?.keys?.[event.key]) return;
  else app.view.keys[event.key](event);
  event.preventDefault();
});

document.getElementById("help-button").addEventListener("click", () => showHelp(app.home?.annotate));
window.addEventListener("popstate", () => {
  early = [];
  show();
});

// The token is in the cookie now: it need not stand in the address, nor in the history.
const here = new URL(location.href);
if (here.searchParams.has("token")) {
  here.searchParams.delete("token");
  history.replaceState(null, "", here);
}
show();
