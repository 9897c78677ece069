/**
 * Images to answers: one call of /ocr for each.
 *
 * At most `AT_ONCE` calls run, none while the queue is held. Each image gets exactly one outcome.
 */

export const AT_ONCE = 6;
// Longer than any deadline of the service: the connection is broken after that time.
const TIMEOUT_MS = 60_000;

export class Reader {
  #waiting = [];
  #running = 0;
  #held = true;
  key = "";

  /**
   * Queue an image.
   *
   * @param {File} file
   * @param {Object<string, string>} options names and values as the form has them
   * @param {{begin: function(): void, end: function(object): void}} listener
   */
  read(file, options, listener) {
    this.#waiting.push({ file, options, listener });
    this.#start();
  }

  /** Start no further calls until `release`. */
  hold() {
    this.#held = true;
  }

  release() {
    this.#held = false;
    this.#start();
  }

  /** Remove the images that wait. */
  clear() {
    this.#waiting = [];
  }

  get idle() {
    return this.#running === 0 && this.#waiting.length === 0;
  }

  #start() {
    while (!this.#held && this.#running < AT_ONCE && this.#waiting.length > 0) {
      this.#running += 1;
      this.#run(this.#waiting.shift());
    }
  }

  async #run({ file, options, listener }) {
    listener.begin();
    const outcome = await call(file, options, this.key);
    this.#running -= 1;
    listener.end(outcome);
    this.#start();
  }
}

/** Send one image; return status, answer, times in ms, whether it was cached, request id. */
async function call(file, options, key) {
  const form = new FormData();
  form.append("image", file);
  form.append("details", "true");
  Object.entries(options).forEach(([name, value]) => form.append(name, value));
  const headers = key ? { "X-API-Key": key } : {};
  const start = performance.now();
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const reply = await fetch("ocr", { method: "POST", body: form, headers, signal });
    const answer = await readJson(reply);
    return {
      status: reply.status,
      answer,
      times: { total: performance.now() - start, ...serverTimes(reply.headers.get("Server-Timing")) },
      cached: reply.headers.get("X-Cache") === "hit",
      requestId: reply.headers.get("X-Request-Id"),
      options,
    };
  } catch {
    const answer = { success: false, error_type: "unreachable" };
    return { status: 0, answer, times: { total: performance.now() - start }, options };
  }
}

/** Return the JSON of a reply, or a `not_json` error: then it is not from the service. */
async function readJson(reply) {
  const text = await reply.text();
  try {
    return JSON.parse(text);
  } catch {
    return { success: false, error_type: "not_json" };
  }
}

/** Return the durations of a Server-Timing header by name, in ms. */
export function serverTimes(header) {
  const found = (header ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  return Object.fromEntries([...found].map(([, name, value]) => [name, Number(value)]));
}
