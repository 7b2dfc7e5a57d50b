// What openai_player.py is, for the libraries of npm; LIBRARY is a constant before this.
import { createInterface } from "node:readline";

const [baseURL] = process.argv.slice(1);
const model = "omniforge";
const apiKey = "none";
const headers = { "X-Conversation-ID": "talk-1" };
const plain = (messages) => messages.map(([role, content]) => ({ role, content }));

async function openai() {
  const { default: OpenAI } = await import("openai");
  return new OpenAI({ baseURL, apiKey, defaultHeaders: headers });
}
async function openaiWhole(messages, seen) {
  const client = await openai();
  const { data } = await client.models.list();
  const { id } = await client.models.retrieve(data[0].id);
  const reply = await client.chat.completions.create({ model: id, messages: plain(messages) });
  seen.text = reply.choices[0].message.content;
}
function see({ choices: [choice], usage }, seen) {
  seen.text += choice?.delta.content ?? "";
  seen.thoughts += choice?.delta.reasoning_content ?? "";
  seen.reason = choice?.finish_reason ?? seen.reason;
  seen.tokens = usage?.total_tokens;
}
const asked = (messages) => ({
  model,
  messages: plain(messages),
  stream_options: { include_usage: true },
});
async function aiSdk(messages) {
  const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
  const options = { name: "omniforge", baseURL, apiKey, headers, includeUsage: true };
  return { model: createOpenAICompatible(options).chatModel(model), messages: plain(messages) };
}

const libraries = {
  openai: {
    async *stream(messages, seen, signal) {
      const { completions } = (await openai()).chat;
      const chunks = await completions.create({ ...asked(messages), stream: true }, { signal });
      for await (const chunk of chunks) yield see(chunk, seen);
    },
    whole: openaiWhole,
  },
  "openai-helper": {
    async *stream(messages, seen, signal) {
      const stream = (await openai()).chat.completions.stream(asked(messages), { signal });
      for await (const chunk of stream) yield see(chunk, seen);
      const { choices } = await stream.finalChatCompletion();
      if ((choices[0].message.content ?? "") !== seen.text) throw new Error("another text");
    },
    whole: openaiWhole,
  },
  "ai-sdk": {
    async *stream(messages, seen, abortSignal) {
      const { streamText } = await import("ai");
      const onError = () => {}; // or it is printed
      const result = streamText({ ...(await aiSdk(messages)), abortSignal, onError });
      for await (const part of result.fullStream) {
        if (part.type === "text-delta") seen.text += part.text;
        if (part.type === "reasoning-delta") seen.thoughts += part.text;
        if (part.type === "error") throw part.error;
        if (part.type === "finish") {
          Object.assign(seen, { reason: part.finishReason, tokens: part.totalUsage.totalTokens });
        }
        yield;
      }
    },
    async whole(messages, seen) {
      const { generateText } = await import("ai");
      seen.text = (await generateText(await aiSdk(messages))).text;
    },
  },
};

async function play(method, messages) {
  const library = libraries[LIBRARY];
  const seen = { text: "", thoughts: "" };
  const controller = new AbortController();
  try {
    if (method === "whole") await library.whole(messages, seen);
    else {
      for await (const _ of library.stream(messages, seen, controller.signal)) {
        if (!seen.text || method !== "leave") continue;
        controller.abort();
        break;
      }
    }
  } catch (error) {
    const { code, data } = error.lastError ?? error;
    Object.assign(seen, { error: String(error), code: code ?? data?.error?.code ?? data?.code });
  }
  return seen;
}
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await play(...JSON.parse(line))));
}
