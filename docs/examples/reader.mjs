// A reader of the stream in JavaScript, for browsers and for Node 18 or newer:
//
//   for await (const piece of chat("/api/v1/chat", { message: "Hello" })) show(piece);
//
// EventSource cannot send a POST; fetch can. This reads server-sent events as the standard has
// them: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

/** The chat was refused, failed on its way or was cut; `code` tells which. */
export class ChatFailed extends Error {
  constructor({ code, message }, options) {
    super(message, options);
    this.name = "ChatFailed";
    this.code = code;
  }
}

/**
 * The pieces of the reply, as they come. Throws ChatFailed unless the reply is complete. To stop a
 * reply, leave the loop or abort the `signal`.
 */
export async function* chat(url, request, { signal, headers = {} } = {}) {
  const response = await fetch(url, {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok) {
    const other = { code: String(response.status), message: response.statusText };
    throw new ChatFailed(await response.json().catch(() => other)); // other: a proxy's page, say
  }
  try {
    for await (const { event, data } of events(response.body)) {
      if (event === "chunk") yield JSON.parse(data).content;
      if (event === "error") throw new ChatFailed(JSON.parse(data));
      if (event === "done") return;
    }
  } catch (error) {
    if (error instanceof ChatFailed || signal?.aborted) throw error;
    throw new ChatFailed({ code: "cut", message: String(error) }, { cause: error });
  }
  throw new ChatFailed({ code: "cut", message: "The stream ended before the reply did" });
}

/** The events of a stream of bytes. An event that no blank line has ended is not one. */
export async function* events(body) {
  let event = "";
  let data = [];
  for await (const line of lines(body)) {
    if (line === "") {
      if (data.length) yield { event: event || "message", data: data.join("\n") };
      event = "";
      data = [];
      continue;
    }
    const [, field, value = ""] = line.match(/^([^:]*)(?:: ?(.*))?$/s);
    if (field === "event") event = value;
    if (field === "data") data.push(value); // a comment begins with ":" and has no field
  }
}

/** The finished lines of a stream of bytes, which end in CR LF, LF or CR. */
async function* lines(body) {
  const decoder = new TextDecoder(); // drops a byte order mark, as the standard wants it
  const reader = body.getReader();
  let rest = "";
  let afterCR = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      let text = decoder.decode(value, { stream: true });
      if (text === "") continue;
      if (afterCR && text[0] === "\n") text = text.slice(1); // CR and LF came apart: one line end
      afterCR = text.endsWith("\r");
      const found = (rest + text).split(/\r\n|\n|\r/);
      rest = found.pop();
      yield* found;
    }
  } finally {
    await reader.cancel().catch(() => {}); // closes the connection, which stops the reply
  }
}
