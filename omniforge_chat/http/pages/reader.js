// A reader of the chat's stream, for browsers and for Node 18 or newer, without dependencies.
//
//   import { chat } from "/reader.js";
//
//   const reply = chat("Hello");
//   for await (const text of reply) show(text);
//   reply.done; // { conversation_id: "...", usage: { tokens: 40, estimated: true } }
//
// The message is sent once. If its connection breaks and the service keeps replies, the reader asks
// for what comes behind the last event that it has, by the reply's id.
//
// EventSource cannot send a POST; fetch can. You may copy this file into a project of yours.

/**
 * @typedef {object} Usage
 * @property {number} tokens
 * @property {number} [prompt_tokens]
 * @property {number} [completion_tokens]
 * @property {boolean} [estimated] the responder counted nothing
 *
 * @typedef {object} Done the data of `done`; fields that are newer than this file are there too
 * @property {string} conversation_id send it with the next message
 * @property {Usage} usage
 * @property {string} [finish_reason]
 * @property {number} [history] how many earlier messages the reply knew
 *
 * @typedef {object} ChatOptions
 * @property {string | URL} [url] the chat; if it is not set, the one beside this file's address
 * @property {string} [conversationId]
 * @property {string} [key] says who asks: a key or a token, sent as `Authorization: Bearer`
 * @property {HeadersInit} [headers] further headers of the request
 * @property {Record<string, unknown>} [fields] further fields of the request
 * @property {string} [idempotencyKey] a service that keeps replies makes one reply for each key
 * @property {AbortSignal} [signal] stops the reply at once; the loop then throws its reason
 * @property {(text: string) => void} [onThought] gets each piece of the model's thoughts
 * @property {(waiting: boolean) => void} [onResume] gets true when the connection is lost and the
 *   reply is asked for again, and false when it goes on
 * @property {string} [lastId] of `resume`: the last event that you have
 *
 * @typedef {object} ServerSentEvent
 * @property {string} event its name, "message" if it has none
 * @property {string} data
 * @property {string} id the last id that the stream has sent, or ""
 */

/**
 * The chat was refused, failed on its way or was cut.
 *
 * | the trouble | code | status |
 * |---|---|---|
 * | the chat refused the message | the chat's | its own |
 * | a proxy or another server answered | the status, such as "502" | its own |
 * | the reply failed | the chat's or the responder's | |
 * | the stream ended with neither `done` nor `error` | "cut" | |
 * | an event does not have the chat's form | "unreadable" | |
 */
export class ChatFailed extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ status?: number, retryAfter?: number, usage?: Usage, cause?: unknown }} [more]
   */
  constructor(code, message, { status, retryAfter, usage, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "ChatFailed";
    this.code = code;
    /** The HTTP status of a refusal. */
    this.status = status;
    /** Seconds to wait before the next try, if the server says so. */
    this.retryAfter = retryAfter;
    /** The usage of a reply that failed after some text. */
    this.usage = usage;
  }
}

/**
 * Send a message. The request begins with the loop over the reply; to stop it, leave the loop.
 *
 * @param {string} message
 * @param {ChatOptions} [options]
 */
export function chat(message, options = {}) {
  return new Reply(message, options);
}

/**
 * Go on with a reply, for example when its page was loaded again.
 *
 * @param {string} id that of the Reply
 * @param {ChatOptions} [options]
 */
export function resume(id, options = {}) {
  return new Reply("", options, id);
}

const TRIES = 6; // in a row without an event: some 30 seconds, if nobody answers
const [WAIT, LONGEST_WAIT, LONGEST_ASKED] = [1000, 8000, 30_000]; // milliseconds between them
const [HEAD, SILENCE] = [10_000, 45_000]; // a heartbeat comes every 15 seconds
const STOP = 5000; // for the end of a reply that is stopped
const OVER = ".9007199254740991"; // the id of the event that ends a reply ends so

/**
 * The pieces of a reply's text, as they come; each reply can be read once.
 *
 * The loop throws ChatFailed unless the reply is complete, and whatever `fetch` throws if there is
 * no connection for the message.
 */
export class Reply {
  /** @type {Done | undefined} */
  done;
  /**
   * The reply's id, if the service keeps it. It is there before the first piece.
   *
   * @type {string | undefined}
   */
  id;
  /** The id of the last event. */
  lastId;
  #options;
  #headers;
  #url;
  #running; // the service keeps the reply, and has not told its end
  #left = false;
  #attempt = new AbortController(); // ends the open request, or the wait before it
  #wait = WAIT;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #watch;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #stopped;
  #pieces;

  /**
   * @param {string} message
   * @param {ChatOptions} options
   * @param {string} [id]
   */
  constructor(message, options, id) {
    this.id = id;
    this.#running = id !== undefined;
    this.lastId = options.lastId ?? "";
    this.#options = options;
    this.#headers = headersOf(options);
    this.#url = options.url ?? besideThisFile();
    this.#pieces = this.#read(message);
  }

  [Symbol.asyncIterator]() {
    return this.#pieces;
  }

  /**
   * End the reply, and its loop. `done` then has the `finish_reason` "stopped"; but it is undefined
   * if the service keeps no replies, or cannot be reached.
   */
  stop() {
    if (!this.#running) return this.#leave();
    this.#stopped ??= setTimeout(() => this.#leave(), STOP);
    this.#tell().then((told) => told || this.#leave());
  }

  #leave() {
    this.#left = true;
    this.#attempt.abort();
  }

  /** Tell the service that the reply is to end, and return whether it heard it. */
  async #tell() {
    const init = { method: "DELETE", headers: this.#headers, keepalive: true };
    const answer = await fetch(this.#address(), init).catch(() => undefined);
    return answer?.ok;
  }

  /**
   * It is made of the chat's address. The header Location may lack the prefix of a proxy, and could
   * lead the headers of the request to another host.
   */
  #address() {
    const path = `/replies/${encodeURIComponent(this.id ?? "")}`;
    return String(this.#url).replace(/\/*(?=[?#]|$)/, path);
  }

  /**
   * @param {string} message
   * @returns {AsyncGenerator<string, void, void>}
   */
  async *#read(message) {
    const { signal, onResume } = this.#options;
    const leave = () => this.#leave();
    signal?.addEventListener("abort", leave);
    if (signal?.aborted) leave();
    try {
      for (let tries = 0, wait = 0, waiting = false; ; tries++) {
        const before = this.lastId;
        try {
          const response = await (this.id ? this.#ask(wait) : this.#send(message));
          this.#running = Boolean(this.id);
          if (waiting) onResume?.(false);
          waiting = false;
          yield* this.#follow(response);
          break;
        } catch (problem) {
          if (this.#left) break;
          if (!(problem instanceof ChatFailed)) throw problem;
          if (this.lastId !== before) tries = 0;
          if (!this.id || tries === TRIES || !this.#goesOnAfter(problem)) {
            this.#running = false;
            throw problem;
          }
          if (!waiting) onResume?.(true);
          waiting = true;
          const grown = Math.min(this.#wait * 2 ** tries, LONGEST_WAIT) * (0.5 + Math.random());
          wait = Math.max(grown, 1000 * (problem.retryAfter ?? 0));
        }
      }
      if (!this.done) signal?.throwIfAborted();
    } finally {
      signal?.removeEventListener("abort", leave);
      clearTimeout(this.#watch);
      clearTimeout(this.#stopped);
      if (this.#running) this.#tell();
    }
  }

  /** @param {ChatFailed} problem */
  #goesOnAfter({ code, status, retryAfter = 0 }) {
    if (this.lastId.endsWith(OVER) || 1000 * retryAfter > LONGEST_ASKED) return false;
    // These two may be the words of one worker; another one goes on with the reply.
    if (!status) return ["cut", "shutting_down", "replay_unavailable"].includes(code);
    return status === 429 || status >= 500;
  }

  /** @param {string} message */
  async #send(message) {
    const { conversationId, fields, idempotencyKey } = this.#options;
    const sent = new Headers(this.#headers);
    sent.set("Content-Type", "application/json");
    if (idempotencyKey !== undefined) sent.set("Idempotency-Key", idempotencyKey);
    const body = JSON.stringify({ conversation_id: conversationId, ...fields, message });
    const init = { method: "POST", headers: sent, body, signal: this.#attempt.signal };
    const response = await this.#checked(await fetch(this.#url, init));
    this.id = response.headers.get("X-Reply-ID") ?? undefined;
    return response;
  }

  /**
   * The rest of the reply, after `wait` milliseconds.
   *
   * @param {number} wait
   */
  async #ask(wait) {
    this.#attempt = new AbortController();
    if (this.#left) this.#attempt.abort();
    const { signal } = this.#attempt;
    this.#cutAfter(wait + HEAD);
    await pause(wait, signal);
    const headers = new Headers(this.#headers);
    if (this.lastId) headers.set("Last-Event-ID", this.lastId);
    const init = { headers, signal, cache: /** @type {const} */ ("no-store") };
    const response = await fetch(this.#address(), init).catch(broken);
    if (response.status === 204) {
      throw new ChatFailed("cut", "The reply is over, and its end did not come", { status: 204 });
    }
    return this.#checked(response);
  }

  /** @param {Response} response */
  async #checked(response) {
    const { status, body } = response;
    if (status === 200 && body && mediaType(response) === "text/event-stream") return response;
    throw await refusal(response, this.#options.signal);
  }

  /** @param {number} milliseconds */
  #cutAfter(milliseconds) {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#attempt.abort(), milliseconds);
  }

  /**
   * @param {Response} response
   * @returns {AsyncGenerator<string, void, void>}
   */
  async *#follow(response) {
    const { onThought } = this.#options;
    for await (const { event, data, id } of this.#events(response)) {
      if (this.#left) return;
      if (id) this.lastId = id;
      if (event === "chunk") yield stringIn(fieldsOf(event, data), "content", event);
      if (event === "thought" && onThought) {
        onThought(stringIn(fieldsOf(event, data), "content", event));
      }
      if (event === "error") {
        const failure = fieldsOf(event, data);
        const text = stringIn(failure, "message", event);
        throw new ChatFailed(stringIn(failure, "code", event), text, { usage: failure.usage });
      }
      if (event === "done") {
        this.done = /** @type {Done} */ (fieldsOf(event, data));
        this.#running = false;
        return;
      }
    }
    throw new ChatFailed("cut", "The stream ended before the reply did");
  }

  /**
   * @param {Response} response
   * @returns {AsyncGenerator<ServerSentEvent, void, void>}
   */
  async *#events({ body }) {
    /** @type {ServerSentEvent[]} */
    const found = [];
    const parser = new EventStreamParser((event) => found.push(event));
    const reader = /** @type {ReadableStream<Uint8Array>} */ (body).getReader();
    try {
      for (;;) {
        if (this.#running) this.#cutAfter(SILENCE);
        const { done, value } = await reader.read().catch(broken);
        clearTimeout(this.#watch);
        if (done) return;
        parser.push(value);
        this.#wait = parser.retry ?? this.#wait;
        yield* found.splice(0);
      }
    } finally {
      reader.cancel().catch(() => {}); // closes the connection
    }
  }
}

/**
 * Bytes or text in, events out: WHATWG HTML, section 9.2.6.
 *
 * `push` may be given the stream in pieces of any size. An event that no blank line has ended when
 * the stream ends is never given out, as the standard demands.
 */
export class EventStreamParser {
  /**
   * The reconnection time in milliseconds that the stream asked for last.
   *
   * @type {number | undefined}
   */
  retry;
  #decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // the mark is dropped below
  #onEvent;
  #onComment;
  #atStart = true;
  #afterCR = false; // the last piece ended in CR, so one LF at the start belongs to it
  #line = ""; // an unfinished one
  #event = "";
  /** @type {string[]} */
  #data = [];
  #id = "";

  /**
   * @param {(event: ServerSentEvent) => void} onEvent
   * @param {(comment: string) => void} [onComment] gets the text behind the colon
   */
  constructor(onEvent, onComment = () => {}) {
    this.#onEvent = onEvent;
    this.#onComment = onComment;
  }

  /** @param {Uint8Array | string} piece */
  push(piece) {
    let text = typeof piece === "string" ? piece : this.#decoder.decode(piece, { stream: true });
    if (text === "") return;
    if (this.#atStart && text.startsWith("\ufeff")) text = text.slice(1);
    this.#atStart = false;
    if (this.#afterCR && text.startsWith("\n")) text = text.slice(1);
    this.#afterCR = text.endsWith("\r");
    let start = 0;
    for (const { 0: ending, index = 0 } of text.matchAll(/\r\n|\n|\r/g)) {
      const line = this.#line + text.slice(start, index);
      this.#line = "";
      start = index + ending.length;
      if (line === "") this.#dispatch();
      else this.#field(line);
    }
    this.#line += text.slice(start);
  }

  /** @param {string} line */
  #field(line) {
    const colon = line.indexOf(":");
    if (colon === 0) return this.#onComment(line.slice(1));
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch() {
    const event = { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
    const dispatched = this.#data.length > 0;
    this.#event = "";
    this.#data = [];
    if (dispatched) this.#onEvent(event);
  }
}

/** @param {ChatOptions} options */
function headersOf({ key, headers }) {
  const sent = new Headers(headers);
  if (key === undefined) return sent;
  // The error that `fetch` has for other characters may show them.
  if (!/^[!-~]+$/.test(key)) throw new TypeError("chat: a key has visible ASCII characters alone");
  sent.set("Authorization", `Bearer ${key}`);
  return sent;
}

const here = import.meta.url; // in the call below bundlers would look for a file of theirs

function besideThisFile() {
  if (/^https?:/.test(here)) return new URL("api/v1/chat", here);
  throw new TypeError("chat: this file was not loaded from the service, so `url` must be set");
}

/**
 * @param {unknown} cause
 * @returns {never}
 */
function broken(cause) {
  throw new ChatFailed("cut", "The connection broke before the reply ended", { cause });
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal ends it at once
 */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, signal.aborted ? 0 : milliseconds);
    signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
  });
}

/**
 * The failure that an answer means which is no stream. A proxy may have sent it, in a form of its
 * own, so the body is read only if it says that it is JSON.
 *
 * @param {Response} response
 * @param {AbortSignal} [signal]
 */
async function refusal(response, signal) {
  const { status, headers } = response;
  const after = headers.get("Retry-After") ?? "";
  const retryAfter = /^\d{1,9}$/.test(after) ? Number(after) : undefined; // a date is not the chat's
  const more = { status, retryAfter };
  const type = mediaType(response);
  if (/[/+]json$/.test(type)) {
    const told = await response.json().catch(() => signal?.throwIfAborted());
    if (typeof told?.code === "string" && typeof told.message === "string") {
      return new ChatFailed(told.code, told.message, more);
    }
  } else {
    response.body?.cancel().catch(() => {});
  }
  const what = `status ${status} with ${type || "no Content-Type"}`;
  return new ChatFailed(String(status), `The chat did not answer: ${what}`, more);
}

/** @param {Response} response */
function mediaType(response) {
  return (response.headers.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase();
}

/**
 * The fields of an event's data.
 *
 * @param {string} event
 * @param {string} data
 * @returns {Record<string, any>}
 */
function fieldsOf(event, data) {
  let found;
  try {
    found = JSON.parse(data);
  } catch (cause) {
    throw new ChatFailed("unreadable", `The data of ${event} is not JSON`, { cause });
  }
  if (typeof found === "object" && found !== null && !Array.isArray(found)) return found;
  throw new ChatFailed("unreadable", `The data of ${event} is not an object`);
}

/**
 * @param {Record<string, any>} fields
 * @param {string} name
 * @param {string} event
 * @returns {string}
 */
function stringIn(fields, name, event) {
  if (typeof fields[name] === "string") return fields[name];
  throw new ChatFailed("unreadable", `The data of ${event} has no ${name}`);
}
