// deep-chat in a page, whose address has `api`. Its user types the messages, one after the other.
import "deep-chat";

const url = new URLSearchParams(location.search).get("api");
const nextFrame = () => new Promise(requestAnimationFrame);
let chat, reply, failure;

async function begin(stream) {
  chat?.remove();
  chat = document.createElement("deep-chat");
  chat.directConnection = { openAI: { key: "none", completions: true } };
  chat.connect = { url, stream, headers: { "X-Conversation-ID": "talk-1" } };
  chat.errorMessages = { displayServiceErrorMessages: true };
  chat.onMessage = ({ message }) => (reply = message.role === "ai" ? message.text : undefined);
  chat.onError = (error) => (failure = error);
  const rendered = new Promise((resolve) => (chat.onComponentRender = resolve));
  document.body.append(chat);
  await rendered;
}
const shown = () => chat.getMessages().findLast(({ role }) => role === "ai")?.text ?? "";
const isOver = () => reply !== undefined || failure !== undefined;
async function seen() {
  let text; // it shows the last pieces behind the end
  do {
    text = shown();
    for (let frames = 0; frames < 5; frames++) await nextFrame();
  } while (shown() !== text);
  // Of a reply that comes at once it says so, and shows it.
  const hasty = failure?.startsWith("No valid stream events") && shown();
  return { text, error: hasty ? undefined : failure };
}

async function all(messages, isEnough, stream = true) {
  await begin(stream);
  for (const [role, text] of messages) {
    if (role !== "user") continue;
    reply = failure = undefined;
    chat.submitUserMessage({ text });
    while (!isEnough()) await nextFrame();
  }
}

globalThis.kit = {
  async say(messages) {
    await all(messages, isOver);
    return seen();
  },
  async whole(messages) {
    await all(messages, isOver, false);
    return seen();
  },
  async leave(messages) {
    await all(messages, shown);
    chat.shadowRoot.querySelector("#stop-icon").parentElement.click();
    while (!isOver()) await nextFrame();
    return seen();
  },
};
