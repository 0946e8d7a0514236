// Questions to the server.

export class Problem extends Error {
  constructor(message, hint, status) {
    super(message);
    this.hint = hint;
    this.status = status;
  }

  get words() {
    return this.hint ? `${this.message} (${this.hint})` : this.message;
  }
}

async function answered(promise) {
  let response;
  try {
    response = await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("the viewer does not answer", "was it ended? start mistill view again", 0);
  }
  const value = await response.json();
  if (!response.ok) throw new Problem(value.problem, value.hint, response.status);
  return value;
}

/** GET; what is null or empty is left out. */
export function ask(path, given = {}, signal = undefined) {
  return answered(fetch(`/api/${path}?${query(given)}`, {signal, credentials: "same-origin"}));
}

export function tell(path, value) {
  const headers = {"Content-Type": "application/json"};
  // It arrives though the page is left at that moment.
  const sent = {method: "POST", headers, body: JSON.stringify(value), credentials: "same-origin", keepalive: true};
  return answered(fetch(`/api/${path}`, sent));
}

export function query(given) {
  const kept = Object.entries(given).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(kept).toString();
}
