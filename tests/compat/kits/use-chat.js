// useChat of the AI SDK, with no option that is needed: it posts to /api/chat.
import { useChat } from "@ai-sdk/react";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

const FILE = { type: "file", mediaType: "image/png", url: "data:image/png;base64," };
let chat, reason;
const nextFrame = () => new Promise(requestAnimationFrame);

function Page() {
  chat = useChat({ onFinish: (end) => (reason = end.finishReason) });
  return null;
}
createRoot(document.body).render(createElement(Page));

function seen() {
  const { parts = [], metadata = {}, role } = chat.messages.at(-1) ?? {};
  const all = (type) => parts.flatMap((part) => (part.type === type ? [part.text] : [])).join("");
  return {
    text: role === "assistant" ? all("text") : "",
    thoughts: all("reasoning"),
    error: chat.error?.message,
    code: metadata.code,
    tokens: metadata.usage?.tokens,
    reason,
    sent: chat.id,
    conversation: metadata.conversation_id,
  };
}
async function ended(asked) {
  reason = undefined;
  await asked;
  do await nextFrame();
  while (chat.status === "submitted" || chat.status === "streaming");
  return seen();
}

globalThis.kit = {
  say: (text) => ended(chat.sendMessage({ text })),
  show: (text) => ended(chat.sendMessage({ text, files: [FILE] })),
  again: () => ended(chat.regenerate()),
  edit: (text) => ended(chat.sendMessage({ text, messageId: chat.messages[0].id })),
  async begin(text, until) {
    chat.sendMessage({ text });
    while (seen().text !== until) await nextFrame();
  },
  stop: () => ended(chat.stop()),
};
