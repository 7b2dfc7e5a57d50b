// AG-UI's HttpAgent in Node.js. It is told by lines of JSON: [method, ...arguments].
import { HttpAgent } from "@ag-ui/client";
import { createInterface } from "node:readline";

const [url] = process.argv.slice(1);
const IMAGE = { type: "image", source: { type: "data", value: "", mimeType: "image/png" } };
let agent, seen, running, count;
process.on("uncaughtException", () => {}); // behind a cut connection there is one
console.warn = (words) => seen?.warnings.push(words);

function onEvent({ event }) {
  const { type, delta } = event;
  if (type === "TEXT_MESSAGE_CONTENT") seen.text += delta;
  if (type === "REASONING_MESSAGE_CONTENT") seen.thoughts += delta;
  if (type === "THINKING_TEXT_MESSAGE_CONTENT") seen.thoughts += delta;
  if (type === "RUN_STARTED") seen.conversation = event.threadId;
  if (type === "RUN_ERROR") Object.assign(seen, { error: event.message, code: event.code });
  if (type === "RUN_FINISHED") {
    Object.assign(seen, { tokens: event.usage?.[0].totalTokens, reason: event.result?.finish_reason });
  }
}
async function run(messages) {
  agent.messages = messages;
  seen = { text: "", thoughts: "", sent: agent.threadId, warnings: [] };
  try {
    await agent.runAgent({}, { onEvent });
  } catch (error) {
    seen.error = error.message;
  }
  return seen;
}
const user = (content) => ({ id: `user-${++count}`, role: "user", content });
const kit = {
  begin_anew() {
    agent = new HttpAgent({ url });
    count = 0;
  },
  say: (text) => run([...agent.messages, user(text)]),
  show: (text) => run([...agent.messages, user([{ type: "text", text }, IMAGE])]),
  again: () => run(agent.messages.slice(0, -1)),
  edit: (text) => run([user(text)]),
  async begin(text, until) {
    running = kit.say(text);
    while (seen.text !== until) await new Promise(setImmediate);
  },
  stop() {
    agent.abortRun();
    return running;
  },
};
for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...given] = JSON.parse(line);
  console.log(JSON.stringify((await kit[method](...given)) ?? null));
}
