// useChat of the AI SDK in a page that may be loaded again: `resume` asks for the reply that runs.
import { useChat } from "@ai-sdk/react";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

// As a server would keep it: the conversation up to the message that is being answered.
const kept = JSON.parse(sessionStorage.getItem("kept"));
let chat;

function Page() {
  chat = useChat(kept ? { ...kept, resume: true } : {});
  return null;
}
createRoot(document.body).render(createElement(Page));

globalThis.kit = {
  begin(text) {
    const messages = [{ id: "1", role: "user", parts: [{ type: "text", text }] }];
    sessionStorage.setItem("kept", JSON.stringify({ id: chat.id, messages }));
    chat.sendMessage({ text });
  },
  seen() {
    const { messages, status, error } = chat;
    const parts = messages.flatMap(({ role, parts }) => (role === "assistant" ? parts : []));
    const text = parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("");
    return { text, status, error: error?.message, messages: messages.length };
  },
};
