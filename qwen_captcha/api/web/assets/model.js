/**
 * The state of the model, polled from /health.
 *
 * One request is in flight at a time, none while the page is hidden.
 */

const SOON_MS = 1000;
const LATER_MS = 10_000;
const TIMEOUT_MS = 5000;

/** Call `show` with state (ready, loading, failed, draining, unreachable) and /health's fields. */
export async function watchModel(show) {
  for (;;) {
    if (!document.hidden) {
      const { state, health } = await ask();
      show(state, health);
      await pause(state === "ready" ? LATER_MS : SOON_MS);
    } else {
      await pause(SOON_MS);
    }
  }
}

async function ask() {
  try {
    const reply = await fetch("health", { signal: AbortSignal.timeout(TIMEOUT_MS) });
    const health = await reply.json();
    if (health.status === undefined) return { state: "unreachable", health: {} };
    return { state: health.status === "ok" ? "ready" : health.status, health };
  } catch {
    return { state: "unreachable", health: {} };
  }
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
