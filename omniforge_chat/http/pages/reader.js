// A reader of the chat's stream, for browsers and for Node 18 or newer, without dependencies.
//
//   import { chat } from "/reader.js";
//
//   const reply = chat("Hello");
//   for await (const text of reply) show(text);
//   reply.done; // { conversation_id: "...", usage: { tokens: 40, estimated: true } }
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
 * @property {HeadersInit} [headers] further headers of the request
 * @property {Record<string, unknown>} [fields] further fields of the request
 * @property {AbortSignal} [signal] stops the reply; the loop then throws its reason
 * @property {(text: string) => void} [onThought] gets each piece of the model's thoughts
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
 * The pieces of a reply's text, as they come; each reply can be read once.
 *
 * The loop throws ChatFailed unless the reply is complete, and whatever `fetch` throws if there is
 * no connection.
 */
export class Reply {
  /** @type {Done | undefined} */
  done;
  /** @type {AsyncGenerator<string, void, void>} */
  #pieces;

  /**
   * @param {string} message
   * @param {ChatOptions} options
   */
  constructor(message, options) {
    this.#pieces = this.#read(message, options);
  }

  [Symbol.asyncIterator]() {
    return this.#pieces;
  }

  /**
   * @param {string} message
   * @param {ChatOptions} options
   * @returns {AsyncGenerator<string, void, void>}
   */
  async *#read(
    message,
    { url = besideThisFile(), conversationId, headers, fields, signal, onThought },
  ) {
    const sent = new Headers(headers);
    sent.set("Content-Type", "application/json");
    const body = JSON.stringify({ conversation_id: conversationId, ...fields, message });
    const response = await fetch(url, { method: "POST", headers: sent, body, signal });
    if (response.status !== 200 || !response.body || mediaType(response) !== "text/event-stream") {
      throw await refusal(response, signal);
    }
    for await (const { event, data } of events(response.body, signal)) {
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
        return;
      }
    }
    throw new ChatFailed("cut", "The stream ended before the reply did");
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

const here = import.meta.url; // in the call below bundlers would look for a file of theirs

function besideThisFile() {
  if (/^https?:/.test(here)) return new URL("api/v1/chat", here);
  throw new TypeError("chat: this file was not loaded from the service, so `url` must be set");
}

/**
 * @param {ReadableStream<Uint8Array>} body
 * @param {AbortSignal} [signal]
 * @returns {AsyncGenerator<ServerSentEvent, void, void>}
 */
async function* events(body, signal) {
  /** @type {ServerSentEvent[]} */
  const found = [];
  const parser = new EventStreamParser((event) => found.push(event));
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        signal?.throwIfAborted();
        throw new ChatFailed("cut", "The connection broke before the reply ended", { cause: error });
      });
      if (done) return;
      parser.push(value);
      yield* found.splice(0);
    }
  } finally {
    reader.cancel().catch(() => {}); // closes the connection, which stops the reply
  }
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
