// assistant-ui's runtime for data streams; `api` is in the address of the page.
import { AssistantRuntimeProvider } from "@assistant-ui/react";
import { useDataStreamRuntime } from "@assistant-ui/react-data-stream";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

const api = new URLSearchParams(location.search).get("api");
const nextFrame = () => new Promise(requestAnimationFrame);
let thread, failure;

function Page() {
  const runtime = useDataStreamRuntime({ api, onError: (error) => (failure = error) });
  thread = runtime.thread;
  return createElement(AssistantRuntimeProvider, { runtime });
}
createRoot(document.body).render(createElement(Page));

function seen() {
  const { role, content = [], status = {} } = thread.getState().messages.at(-1) ?? {};
  const all = (type) => content.flatMap((part) => (part.type === type ? [part.text] : [])).join("");
  return {
    text: role === "assistant" ? all("text") : "",
    thoughts: all("reasoning"),
    error: failure?.message ?? status.error?.message,
    reason: status.reason,
  };
}
async function ended() {
  do await nextFrame();
  while (thread.getState().isRunning);
  return seen();
}
function ask(text, parentId, more = []) {
  failure = undefined;
  const content = [{ type: "text", text }, ...more];
  thread.append({ role: "user", content, ...(parentId !== undefined && { parentId }) });
}

globalThis.kit = {
  async say(text) {
    ask(text);
    return ended();
  },
  async show(text) {
    ask(text, undefined, [{ type: "file", data: "", mimeType: "image/png" }]);
    return ended();
  },
  async again() {
    thread.startRun({ parentId: thread.getState().messages.at(-2).id });
    return ended();
  },
  async edit(text) {
    ask(text, null);
    return ended();
  },
  async begin(text, until) {
    ask(text);
    while (seen().text !== until) await nextFrame();
  },
  async stop() {
    thread.cancelRun();
    return ended();
  },
};
