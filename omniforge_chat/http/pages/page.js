// The page to talk in. Its markup and its style are in chat.html.
import { chat, resume, ChatFailed } from "./reader.js";

const base = new URL(".", import.meta.url);
const $ = (id) => document.getElementById(id);
const HOME = matchMedia("(pointer: coarse)").matches ? "send" : "message"; // a phone would show its keyboard
// Whatever comes from a server or a person enters the page as text, never as markup.
function el(name, ...parts) { // "div.bubble", attributes, and nodes or texts, also in arrays
  const [tag, kind] = name.split("."), element = document.createElement(tag);
  if (kind) element.className = kind;
  for (const part of parts.flat(Infinity)) {
    if (part.constructor !== Object) element.append(part);
    else for (const key in part) element.setAttribute(key, part[key]);
  }
  return element;
}
const ICONS = {
  chat: "M5 4h14a2 2 0 0 1 2 2v9a2 2 0 0 1-2 2h-8l-5 4v-4H5a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2zM8 9h8M8 12.5h5",
  menu: "M4 7h16M4 12h16M4 17h16", plus: "M12 5v14M5 12h14", close: "M6 6l12 12M18 6L6 18",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14", send: "M12 19V5M6 11l6-6 6 6", end: "M12 5v14M6 13l6 6 6-6",
  stop: "M8 8h8v8H8zM8 10h8M8 12h8M8 14h8", copy: "M9 9h10v11H9zM5 15V4h10",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3", retry: "M19 6v5h-5M19 11a7 7 0 1 0 .5 4",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};
function icon(name) {
  const [image, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"]]) image.setAttribute(key, value);
  path.setAttribute("d", ICONS[name]);
  image.append(path);
  return image;
}
const button = (name, text, onclick, more = {}) =>
  Object.assign(el("button.plain", { type: "button", ...more }, icon(name), text), { onclick });

// ---- Markdown to nodes: CommonMark and GitHub's tables, without HTML and indented code ----
const NESTED = 40; // lists, quotes and emphasis that are deeper stay text
const PUNCTUATION = /[!-/:-@[-`{-~]/; // ASCII's alone, as Chinese has no spaces beside its own
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", "#39": "'", nbsp: "\u00a0" };
const joined = (flags, ...parts) => new RegExp(parts.map(({ source }) => source).join(""), flags);
const TOKEN = joined("gi", /\\([!-/:-@[-`{-~])|(`+)|<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>|/,
  /(<br *\/?>|\n)|(\*+|_+|~~)|(!?\[)|(\])|&(\w{2,4}|#39);|(https?:\/\/[^\s<>[\]`*\u3000-\u303f\uff00-\uffef]{1,2000})/);
const TARGET = joined("y", /\(\s{0,9}(?:<([^<>\n]{0,2000})>|((?:[^\s()<>]|\([^\s()]{0,2000}\)){0,2000}))/,
  /(?:\s{1,9}(?:"[^"]{0,500}"|'[^']{0,500}'))?\s{0,9}\)/); // (address "title") behind a link's text
function marked(text, at, marks) { // a run of marks: whether it can open or close emphasis
  const around = [text[at - 1] ?? " ", text[at + marks.length] ?? " "];
  const spaced = around.map((one) => /\s/.test(one)), pointed = around.map((one) => PUNCTUATION.test(one));
  const left = !spaced[1] && (!pointed[1] || spaced[0] || pointed[0]);
  const right = !spaced[0] && (!pointed[0] || spaced[1] || pointed[1]);
  const within = marks[0] === "_" && left && right; // as in snake_case
  const [opens, closes] = [left && (!within || pointed[0]), right && (!within || pointed[1])];
  return { mark: marks[0], length: marks.length, whole: marks.length, opens, closes };
}
function tokens(text) { // in one pass; the bracket that begins a link gets its target and its end
  const found = [], brackets = [], runs = {}; // of ticks: where those of each length are, the last first
  for (const { 0: ticks, index } of [...text.matchAll(/`+/g)].reverse()) (runs[ticks.length] ??= []).push(index);
  let end = 0;
  for (let match; (match = TOKEN.exec(text)); TOKEN.lastIndex = end) {
    const [all, escaped, ticks, auto, line, marks, open, close, entity, bare] = match, at = match.index;
    let before = text.slice(end, at), token = { words: escaped ?? ENTITIES[entity] ?? all };
    end = TOKEN.lastIndex;
    if (line) {
      if (line !== "\n" || /( {2}|\\)$/.test(before.slice(-2))) token = { name: "br", words: "" };
      before = before.endsWith("\\") ? before.slice(0, -1) : before.trimEnd();
    } else if (ticks) {
      const others = runs[ticks.length] ?? [];
      while (others.at(-1) < end) others.pop();
      if (others.length) {
        const code = text.slice(end, others.at(-1)).replaceAll("\n", " ");
        token = { name: "code", words: /^ (?!\s*$)/.test(code) && code.endsWith(" ") ? code.slice(1, -1) : code };
        end = others.at(-1) + ticks.length;
      }
    } else if (marks) token = marked(text, at, marks);
    else if (auto ?? bare) {
      let kept = auto ?? bare; // without the end of the sentence around it
      while (bare && /[.,:;!?'"\]_~]$|^[^(]*\)$/.test(kept)) kept = kept.slice(0, -1);
      if (bare) end = at + kept.length;
      token = { auto: kept };
    }
    found.push({ words: before }, token);
    if (open) brackets.push(token);
    const begin = close && brackets.pop();
    TARGET.lastIndex = end;
    const target = begin && TARGET.exec(text);
    if (target) {
      Object.assign(begin, { target: (target[1] ?? target[2]).replace(/\\([\W_])/g, "$1"), last: found.length - 1 });
      token.words = "";
      end = TARGET.lastIndex;
    }
  }
  return [...found, { words: text.slice(end) }];
}
function link(address, children) {
  const url = URL.canParse(address) && new URL(address); // others would lead into this service
  if (!/^(https?|mailto):$/.test(url.protocol)) return el("span", children, ` (${address})`);
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" },
    children.some((one) => one !== "") ? children : address);
}
function spans(list, from = 0, to = list.length, linked = false) {
  const stack = [], openers = { "*": 0, _: 0, "~": 0 }; // nodes, and runs of marks that may open emphasis
  const plain = (one) => (one.mark ? (openers[one.mark]--, one.mark.repeat(one.length)) : one);
  const close = (it) => {
    for (let i = stack.length, tries = 500; i-- && it.length && openers[it.mark] && tries--; ) {
      const opener = stack[i];
      if (opener.mark !== it.mark) continue;
      // CommonMark's rule 9: in **foo*bar** there is no emphasis around "foo".
      if ((opener.closes || it.opens) && (opener.whole + it.whole) % 3 === 0 && it.whole % 3) continue;
      const width = Math.min(2, opener.length, it.length);
      const element = el(it.mark === "~" ? "del" : width === 2 ? "strong" : "em", stack.splice(i + 1).map(plain));
      for (const one of [opener, it]) one.length -= width;
      if (!opener.length) openers[stack.pop().mark]--;
      i = stack.push(element) - 1;
    }
  };
  for (let i = from; i < to; i++) {
    const { name, words, auto, mark, target, last } = list[i];
    if (mark) {
      const it = { ...list[i] };
      if (it.closes) close(it);
      const kept = it.opens && it.length && openers[mark] < NESTED;
      if (kept) openers[mark]++;
      stack.push(kept ? it : mark.repeat(it.length));
    } else if (last && !linked) {
      stack.push(link(target, spans(list, i + 1, last, true)));
      i = last;
    } else if (auto) stack.push(linked ? auto : link(auto, [auto]));
    else if (!last) stack.push(name ? el(name, words) : words);
  }
  return stack.map(plain);
}
const inline = (text) => spans(tokens(text));
const FENCE = /^( *)(`{3,}|~{3,}) *([^`]*)$/, HEADING = /^ {0,3}(#{1,6})(?:\s+(.*))?$/s;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/, QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/, UNDERLINE = /^ {0,3}(={2,}|-{2,})\s*$/;
const DIVIDER = /^\s*(?:\|\s*)?:?-+:?\s*(?:\|\s*:?-+:?\s*)*(?:\|\s*)?$/;
const cells = (row) => row.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map((cell) =>
  cell.replaceAll("\\|", "|").trim());
const isTable = (lines, i) => lines[i].includes("|") && DIVIDER.test(lines[i + 1] ?? "") &&
  cells(lines[i]).length === cells(lines[i + 1]).length;
const starts = (lines, i) => [FENCE, HEADING, RULE, QUOTE].some((kind) => kind.test(lines[i])) ||
  /^ *([-*+]|1[.)]) +\S/.test(lines[i]) || isTable(lines, i);
function heading(depth, text, levels) { // the levels of the page follow each other without a gap
  while (levels.at(-1) >= depth) levels.pop();
  levels.push(depth);
  const name = `h${Math.min(6, 2 + levels.length)}.level of${depth}`;
  return el(name, inline(text.trim().replace(/(^|\s)#{1,9}$/, "")));
}
function fence(lines, i) {
  const [, { length: indent }, marks, info] = FENCE.exec(lines[i++]);
  const closing = new RegExp(`^ *${marks[0]}{${Math.min(marks.length, 99)},}\\s*$`), inside = [];
  const cut = (line) => line.slice(Math.min(line.search(/[^ ]|$/), indent));
  for (; i < lines.length && !closing.test(lines[i]); i++) inside.push(cut(lines[i]));
  const language = info.trim().split(/[\s{,:]/)[0] || "text";
  const bar = el("div", el("span", language), button("copy", "Copy", copyCode));
  const group = { tabindex: 0, role: "group", "aria-label": `Code: ${language}` };
  return [el("div.code", { dir: "ltr" }, bar, el("pre", group, el("code", inside.join("\n")))), i + 1];
}
function table(lines, i) {
  const sides = cells(lines[i + 1]).map((cell) => /^(:?).*?(:?)$/.exec(cell))
    .map(([, start, end]) => (end ? (start ? ".center" : ".right") : ""));
  const row = (name, parts) => el("tr", sides.map((side, column) => el(name + side, inline(parts[column] ?? ""))));
  const head = el("thead", row("th", cells(lines[i]))), body = el("tbody");
  for (i += 2; lines[i]?.includes("|"); i++) body.append(row("td", cells(lines[i])));
  return [el("div.table", { tabindex: 0, role: "group", "aria-label": "Table" }, el("table", head, body)), i];
}
function quote(lines, i, levels, depth) {
  const inside = [];
  while (lines[i]?.trim() && (QUOTE.test(lines[i]) || !starts(lines, i))) inside.push(lines[i++].replace(QUOTE, ""));
  return [el("blockquote", nodes(inside, levels, depth)), i];
}
function list(lines, i, levels, depth) {
  const [, { length: margin }, first] = ITEM.exec(lines[i]), kind = first.at(-1), items = [];
  const next = () => i < lines.length && !RULE.test(lines[i]) && ITEM.exec(lines[i]);
  let loose = false;
  for (let item; (item = next()) && item[2].endsWith(kind); ) {
    const [all, pad, marker, gap] = item, inside = [];
    const width = gap && gap.length < 5 ? all.length : pad.length + marker.length + 1;
    inside.push(lines[i++].slice(width).replace(/^\[[ xX]\] /, (box) => (box[1] === " " ? "☐ " : "☑ ")));
    let blank = false;
    for (; i < lines.length; i++) {
      const indent = lines[i].search(/\S/), another = ITEM.test(lines[i]); // which many indent too little
      const within = indent >= width || (indent >= margin + 2 && another);
      if (indent >= 0 && !within && (blank || another || starts(lines, i))) break;
      blank = indent < 0;
      inside.push(lines[i].slice(Math.min(Math.max(indent, 0), width)));
    }
    const parts = [...blocks(inside, levels, depth)];
    loose ||= parts.some(({ start }) => start && !inside[start - 1].trim()) || (blank && next()?.[2]?.endsWith(kind));
    items.push(parts.map(({ node }) => node));
  }
  const shown = items.map((parts) => el("li", parts.map((part) =>
    (part.nodeName === "P" && !loose ? [...part.childNodes] : part))));
  return [/\d/.test(first) ? el("ol", { start: parseInt(first, 10) }, shown) : el("ul", shown), i];
}
function paragraph(lines, i, levels) {
  const inside = [];
  for (; lines[i]?.trim(); i++) {
    const under = inside.length && UNDERLINE.exec(lines[i]);
    if (under) return [heading(under[1][0] === "=" ? 1 : 2, inside.join("\n"), levels), i + 1];
    if (inside.length && starts(lines, i)) break;
    inside.push(lines[i].trimStart());
  }
  return [el("p", inline(inside.join("\n").trimEnd())), i];
}
function* blocks(lines, levels, depth = 0) { // each with its first line and the levels before it
  for (let i = 0; i < lines.length; ) {
    const start = i, before = [...levels], title = HEADING.exec(lines[i]);
    let node;
    if (!lines[i].trim()) { i++; continue; }
    if (FENCE.test(lines[i])) [node, i] = fence(lines, i);
    else if (title) [node, i] = [heading(title[1].length, title[2] ?? "", levels), i + 1];
    else if (RULE.test(lines[i])) [node, i] = [el("hr"), i + 1];
    else if (isTable(lines, i)) [node, i] = table(lines, i);
    else if (depth < NESTED && QUOTE.test(lines[i])) [node, i] = quote(lines, i, levels, depth + 1);
    else if (depth < NESTED && ITEM.test(lines[i])) [node, i] = list(lines, i, levels, depth + 1);
    else [node, i] = paragraph(lines, i, levels);
    yield { node, start, levels: before };
  }
}
const nodes = (lines, levels, depth) => Array.from(blocks(lines, levels, depth), ({ node }) => node);
function patch(parent, fresh, from = 0) { // only the nodes that differ are changed
  fresh.forEach((made, i) => {
    const old = parent.childNodes[from + i];
    if (!old) parent.append(made);
    else if (old.isEqualNode(made)) return;
    else if (old.nodeType === 3 && made.nodeType === 3 && made.data.startsWith(old.data)) {
      old.appendData(made.data.slice(old.length));
    } else if (made.nodeType === 1 && old.cloneNode().isEqualNode(made.cloneNode())) {
      patch(old, [...made.childNodes]);
    } else old.replaceWith(made);
  });
  while (parent.childNodes.length > from + fresh.length) parent.lastChild.remove();
}
function markdown(place) { // of a text that grows: blocks that can no longer change are not looked at again
  let settled = 0, count = 0, levels = []; // characters, and the nodes that they have become
  return (text) => {
    const lines = text.slice(settled).split("\n").map((line) => line.replace(/\r$/, "")
      .replace(/^\s*(?:(?:[-*+]|\d{1,9}[.)])\t)?/, (gap) => gap.replaceAll("\t", "    ")));
    const found = [...blocks(lines, [...levels])];
    for (const { node } of found) node.dir ||= "auto"; // one for each, as a list has its marks on one side
    patch(place, found.map(({ node }) => node), count);
    // The last block can change, and the one before it until the first two lines of the last are whole.
    const open = found.length - (found.at(-1)?.start >= lines.length - 2 ? 2 : 1);
    if (open <= 0) return;
    for (let i = 0; i < found[open].start; i++) settled = text.indexOf("\n", settled) + 1;
    [count, levels] = [count + open, found[open].levels];
  };
}

// ---- Conversations, kept in this browser ----
const PREFIX = `omniforge-chat:${base.pathname}:`;
const MOST_TALKS = 100, MOST_CHARACTERS = 2_000_000; // a browser has room for about 5 million
let storage = null, talks = []; // the latest first
try {
  storage = window.localStorage;
  talks = Object.keys(storage).flatMap(read);
  talks.sort((one, two) => two.time - one.time);
  for (const turn of talks.flatMap(({ turns }) => turns)) if (turn.end === "running") turn.end = "cut";
} catch { /* it is blocked */ }
function newTalk() { // its id is the conversation's on the server, too
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID needs https
  [bytes[6], bytes[8]] = [(bytes[6] & 15) | 64, (bytes[8] & 63) | 128];
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id: digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-"), time: Date.now(), turns: [], size: 0 };
}
function read(key) { // a conversation, or none if something else is there
  try {
    const id = key.slice(PREFIX.length), ours = key.startsWith(PREFIX) && /^[\w-]{36}$/.test(id);
    const text = storage.getItem(key), { time, turns } = JSON.parse(text);
    const whole = ({ text, reply, error: { code, message } = { code: "", message: "" } }) =>
      [text, reply, code, message].every((one) => typeof one === "string");
    const usable = ours && time >= 0 && time < 1e15 && turns.length > 0 && turns.every(whole);
    return usable ? [{ id, time, turns, size: text.length }] : [];
  } catch { return []; }
}
function forget(talk) {
  talks = talks.filter((other) => other !== talk);
  try { storage.removeItem(PREFIX + talk.id); } catch { /* it is not kept */ }
}
function save(talk) { // the oldest ones make room, but not for one that takes more than half of it
  talk.time = Date.now();
  const text = JSON.stringify({ time: talk.time, turns: talk.turns }), fits = text.length <= MOST_CHARACTERS / 2;
  talk.size = fits ? text.length : 0;
  talks = [talk, ...talks.filter((other) => other !== talk)];
  const all = () => talks.reduce((sum, { size }) => sum + size, 0);
  while (talks.length > MOST_TALKS || (talks.length > 1 && all() > MOST_CHARACTERS)) forget(talks.at(-1));
  while (storage && fits) {
    try { return storage.setItem(PREFIX + talk.id, text); } catch { /* it is full */ }
    if (talks.length === 1) break;
    forget(talks.at(-1));
  }
  say(storage ? "This browser has no room for this conversation: it is not kept."
    : "This browser keeps nothing for this page: your conversations end with it.");
}
function changedElsewhere({ key }) { // in another tab
  const old = [talk, ...talks].find(({ id }) => PREFIX + id === key), [now] = read(key);
  if (old?.running) return;
  talks = talks.filter((other) => other !== old);
  if (now) talks.unshift(Object.assign(old ?? {}, now));
  if (now && old === talk) show(talk);
  else refresh();
}

// ---- The key, for this tab alone ----
const KEY = `omniforge-chat:${base.pathname}:key`;
let key = null, asking = null; // the question that is open
try { key = sessionStorage.getItem(KEY); } catch { /* it is blocked */ }
function keep(given) {
  key = given || null;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch { /* the page knows it until it is loaded again */ }
}
async function askForKey(refused) {
  const dialog = $("asking"), closed = new Promise((resolve) => { dialog.onclose = resolve; });
  $("who").textContent = refused ? "The key was refused." : "This service wants to know who you are.";
  dialog.returnValue = "";
  dialog.showModal();
  await closed;
  if (dialog.returnValue) keep($("key").value.trim());
  $("key").value = "";
}
async function hasAnotherKey(refused) { // than this one, which is forgotten
  if (key === refused) keep(null);
  if (!key) await (asking ??= askForKey(refused).finally(() => { asking = null; }));
  return Boolean(key);
}

// ---- The page ----
let talk = newTalk(), views = new Map(); // the one that is shown, and what shows its turns
let editing = null, draft = "", notBefore = 0, timer = 0;
const secondsLeft = () => Math.max(0, Math.ceil((notBefore - Date.now()) / 1000));
const UNITS = [[7200, 3600, "hour"], [120, 60, "minute"], [0, 1, "second"]];
const WORDS = new Intl.RelativeTimeFormat("en");
function inWords(seconds) { // "in 30 seconds"
  const [, size, unit] = UNITS.find(([least]) => seconds >= least);
  return WORDS.format(Math.ceil(seconds / size), unit);
}
const titleOf = ({ turns: [one] }) => one?.text.trim().replace(/\s+/g, " ").match(/^.{0,80}/u)[0] ?? "New conversation";
const say = (...parts) => $("notice").replaceChildren(...parts); // above the message, until the next one
async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without https there is no clipboard
    const area = document.body.appendChild(el("textarea.out", text));
    area.select();
    document.execCommand("copy");
    area.remove();
    pressed.focus();
  }
  $("status").textContent = pressed.lastChild.data = "Copied";
  setTimeout(() => { pressed.lastChild.data = "Copy"; }, 2000);
}
const copyCode = ({ currentTarget: it }) => copy(it.closest(".code").querySelector("pre").textContent, it);
const retry = () => button("retry", "Retry", again, { class: "plain last", "data-retry": "" });
function view(turn) {
  const text = el("div.text"), thoughts = el("div.thoughts", { dir: "auto" }), summary = el("summary");
  const details = el("details", { hidden: "" }, summary, thoughts), notes = el("div"), meta = el("span.meta");
  const copied = button("copy", "Copy", () => copy(turn.reply, copied));
  const node = el("li",
    el("div.mine", el("h2.out", "You"), el("div.bubble", { dir: "auto" }, turn.text),
      el("div.acts", button("edit", "Edit", startEdit, { class: "plain last" }))),
    el("div.theirs", el("h2.out", "Reply"), el("div.bubble", details, text, el("span.dots"), notes),
      el("div.acts", copied, retry(), meta)));
  return { turn, node, details, summary, thoughts, notes, meta, copied, grow: markdown(text) };
}
const NOTES = {
  stopped: "You stopped this reply.", cut: "This reply was cut.", resuming: "Reconnecting…",
  length: "The reply has reached the limit of its length.", empty: "The reply is empty.",
  content_filter: "A content filter has ended this reply.",
  forgotten: "The server has forgotten the messages above.",
};
function render({ turn, node, details, summary, thoughts, notes, meta, copied, grow }) {
  const { end, error, usage, reply } = turn, over = end !== "running";
  const earlier = talk.turns.slice(0, talk.turns.indexOf(turn)).some((one) => one.reply);
  node.dataset.end = end;
  grow(reply);
  details.hidden = !turn.thoughts;
  summary.textContent = over || reply ? "Thoughts" : "Thinking…";
  patch(thoughts, [document.createTextNode(turn.thoughts ?? "")]);
  const told = [end, turn.finish, turn.resuming && "resuming", end === "done" && !reply && "empty",
    turn.history === 0 && earlier && "forgotten"].filter((name) => Object.hasOwn(NOTES, name));
  notes.replaceChildren(...told.map((name) => el("p.note", NOTES[name])));
  if (error) notes.append(el("div.failure", el("code", error.code), " ", error.message, retry()));
  if (error) wait();
  copied.hidden = !reply;
  meta.textContent = usage ? `${usage.estimated ? "about " : ""}${usage.tokens} tokens` : "";
}
// At most once a frame, and for a third of the time, however long a reply is.
let changed = new Set(), frame = 0, rested = 0;
const change = (turn) => { changed.add(turn); frame ||= requestAnimationFrame(paint); };
function paint() {
  const began = performance.now();
  frame = began < rested ? requestAnimationFrame(paint) : 0;
  if (frame) return;
  for (const turn of changed) if (views.has(turn)) render(views.get(turn));
  changed = new Set();
  follow();
  rested = performance.now() + Math.min(500, 2 * (performance.now() - began));
}
const scroller = $("scroller");
let following = true, top = 0;
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
function follow(always = false) {
  following ||= always;
  if (following) scroller.scrollTop = scroller.scrollHeight;
  $("end").hidden = following || atEnd();
}
function scrolled() {
  following = atEnd() || (following && scroller.scrollTop >= top); // only a reader scrolls up
  top = scroller.scrollTop;
  $("end").hidden = following;
}
function refresh() { // all but the turns
  const running = Boolean(talk.running), empty = !talk.turns.length, held = document.activeElement;
  [$("send").hidden, $("stop").hidden] = [running, !running];
  if ([$("send"), $("stop")].includes(held)) $(running ? "stop" : HOME).focus();
  $("empty").hidden = !($("turns").hidden = $("export").hidden = empty);
  $("title").textContent = titleOf(talk);
  document.title = empty ? "OmniForge Chat" : `${titleOf(talk)} - OmniForge Chat`;
  const done = talk.turns.findLast(({ end }) => end === "done"), forgetful = done && done.history === undefined;
  $("memory").textContent = forgetful ? "This server remembers nothing: it answers each message on its own." : "";
  $("list").replaceChildren(...talks.map((one) => {
    const shown = one === talk ? { "aria-current": "true" } : {};
    const open = el("button", { type: "button", dir: "auto", "data-talk": one.id, ...shown }, titleOf(one));
    open.onclick = () => show(one);
    const about = { class: "plain icon", "aria-label": `Delete: ${titleOf(one)}` };
    return el("li", open, button("remove", "", () => drop(one), about));
  }));
  wait();
  if (held.dataset?.talk) $("list").querySelector(`[data-talk="${held.dataset.talk}"]`)?.focus();
}
function show(one) {
  stopEdit();
  talk = one;
  views = new Map(talk.turns.map((turn) => [turn, view(turn)]));
  $("turns").replaceChildren(...Array.from(views.values(), ({ node }) => node));
  views.forEach(render);
  say();
  if ($("drawer").matches(":popover-open")) $("drawer").hidePopover();
  refresh();
  follow(true);
  $(HOME).focus();
}
function drop(one) {
  one.running?.stop();
  forget(one);
  show(one === talk ? newTalk() : talk);
  const undo = button("retry", "Undo", () => { save(one); show(one); });
  say(el("span", "The conversation is deleted."), undo);
  undo.focus();
}
function wait() { // for the seconds that the server has asked for
  const left = secondsLeft();
  for (const one of document.querySelectorAll("[data-retry]")) {
    one.lastChild.data = left ? `Retry ${inWords(left)}` : "Retry";
    one.setAttribute("aria-disabled", String(left > 0));
  }
  $("send").setAttribute("aria-disabled", String(left > 0));
  if (!left) $("notice").querySelector(".wait")?.remove();
  clearTimeout(timer);
  if (left) timer = setTimeout(wait, 1000);
}

// ---- Talking ----
function ask(turn) {
  const mine = talk, before = { ...turn }, { kept } = turn, fields = {};
  // The server replaces its last turn if it is this one; but one before it, in the same words, must stay.
  const unlike = turn.text !== mine.turns.at(-2)?.text;
  if (kept !== undefined) Object.assign(fields, { edits: kept, regenerate: unlike && kept !== turn.text });
  if (unlike) turn.kept ??= turn.text; // the server may have it even if nothing comes from there
  for (const name of ["error", "usage", "finish", "history"]) delete turn[name];
  Object.assign(turn, { reply: "", thoughts: "", end: "running" });
  views.get(turn)?.node.remove();
  $("turns").append(views.set(turn, view(turn)).get(turn).node);
  say();
  save(mine);
  receive(mine, turn, () => chat(turn.text, { conversationId: mine.id, fields, ...hearing(turn) }), before);
  follow(true);
}
const hearing = (turn) => ({
  key: key ?? undefined,
  onThought: (text) => change(Object.assign(turn, { thoughts: turn.thoughts + text })),
  onResume(resuming) {
    change(Object.assign(turn, { resuming }));
    if (views.has(turn)) $("status").textContent = resuming ? NOTES.resuming : "The reply goes on";
  },
});
async function receive(mine, turn, begin, before = turn) {
  const used = key, reply = mine.running = begin();
  change(Object.assign(turn, { end: "running", from: reply })); // of which its `id` and `lastId` are kept
  refresh();
  $("status").textContent = "Waiting for the reply";
  try {
    for await (const text of reply) change(Object.assign(turn, { reply: turn.reply + text }));
    const { usage, history, finish_reason: finish = "" } = reply.done ?? { finish_reason: "stopped" };
    Object.assign(turn, { usage, history }, finish === "stopped" ? { end: finish } : { end: "done", finish });
  } catch (problem) {
    const { code, message, retryAfter, status } = problem instanceof ChatFailed ? problem
      : { code: "unreachable", message: "The server cannot be reached." };
    if (status === 401 && await hasAnotherKey(used)) {
      const rest = () => resume(reply.id, { lastId: reply.lastId, ...hearing(turn) });
      return receive(mine, turn, reply.id ? rest : begin, before);
    }
    if (status === 403 && used && key === used) keep(null); // whoever tries again is asked for another
    if (status === 403) say(`You may not chat here${used ? " with this key. To use another one, try again" : ""}.`);
    const gone = code === "reply_not_found";
    Object.assign(turn, gone ? { end: "cut" } : { end: "failed", error: { code, message } });
    if (status && !reply.id) turn.kept = before.kept; // it was refused
    if (retryAfter) notBefore = Date.now() + 1000 * retryAfter;
  }
  for (const name of ["from", "resuming"]) delete turn[name];
  const same = turn.kept === turn.text && before.reply && !turn.reply; // the server keeps the earlier reply
  if (same && turn.end !== "done") Object.assign(turn, before, turn.error && { end: "failed", error: turn.error });
  if (turn.reply) turn.kept = turn.text;
  delete mine.running;
  if (talks.includes(mine)) save(mine);
  change(turn);
  refresh();
  const word = turn.error ? `Error ${turn.error.code}` : turn.end === "done" ? "Reply" : "Stopped";
  if (mine === talk) $("status").textContent = `${word}: ${(turn.error?.message ?? turn.reply).slice(0, 1000)}`;
}
function send() {
  const text = $("message").value, turn = editing ?? { reply: "" };
  if (talk.running || !text.trim()) return;
  if (secondsLeft()) return say(el("span.wait", `You may send this ${inWords(secondsLeft())}.`));
  if (!editing) talk.turns.push(turn);
  turn.text = text;
  if (editing) stopEdit();
  else fill("");
  ask(turn);
}
function again() {
  if (!talk.running && !secondsLeft()) ask(talk.turns.at(-1));
  $(HOME).focus();
}
function startEdit() {
  if (talk.running || editing || !talk.turns.length) return;
  [draft, editing] = [$("message").value, talk.turns.at(-1)];
  $("editing").hidden = false;
  fill(editing.text);
  $("message").focus();
}
function stopEdit() { // what was written before comes back
  if (editing) fill(draft);
  editing = null;
  $("editing").hidden = true;
}
const fill = (text) => { $("message").value = text; fit(); $(HOME).focus(); };
function fit() {
  $("message").style.height = "auto";
  $("message").style.height = `${$("message").scrollHeight}px`;
}
function download({ target: { dataset: { export: kind } } }) {
  if (!kind) return;
  const said = talk.turns.flatMap(({ text, reply, end }) => [{ role: "user", content: text },
    { role: "assistant", content: reply, complete: end === "done" }]);
  const text = kind === "json" ? JSON.stringify({ conversation_id: talk.id, messages: said }, null, 2)
    : said.map(({ role, content }) => `## ${role === "user" ? "You" : "Reply"}\n\n${content}\n`).join("\n");
  const href = URL.createObjectURL(new Blob([text])), day = new Date(talk.time).toISOString().slice(0, 10);
  el("a", { href, download: `conversation-${day}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
  $("exports").hidePopover();
}
function pressed(event) {
  if (event.isComposing || event.keyCode === 229) return; // Enter chooses a word of an input method
  const inMessage = event.target === $("message"), { key } = event;
  const sends = inMessage && key === "Enter" && !event.shiftKey;
  if (key === "Escape" && editing) stopEdit();
  else if (key === "Escape" && !document.querySelector(":popover-open, dialog[open]")) talk.running?.stop();
  if (sends || (inMessage && key === "ArrowUp" && !event.target.value)) {
    event.preventDefault();
    (sends ? send : startEdit)();
  }
}
const on = (target, name, act) => target.addEventListener(name, act);
on($("form"), "submit", (event) => { event.preventDefault(); send(); });
on($("stop"), "click", () => talk.running?.stop());
on($("cancel"), "click", stopEdit);
on($("without"), "click", () => $("asking").close());
on($("end"), "click", () => { follow(true); $(HOME).focus(); });
on($("fresh"), "click", () => show(newTalk()));
on($("exports"), "click", download);
on($("message"), "input", fit);
on(document, "keydown", pressed);
on(scroller, "scroll", scrolled);
on(window, "storage", changedElsewhere);
on(window, "pagehide", () => talks.filter(({ running }) => running).forEach(save));
new ResizeObserver(() => follow()).observe(scroller);
for (const one of document.querySelectorAll("[data-icon]")) one.prepend(icon(one.dataset.icon));
$("reference").href = new URL("docs", base).href;
show(talk);
for (const one of talks.filter(({ turns }) => turns.at(-1).from?.id)) { // a reply that ran when the page was left
  const turn = one.turns.at(-1), { id, lastId } = turn.from;
  show(one);
  receive(one, turn, () => resume(`${id}`, { lastId: `${lastId ?? ""}`, ...hearing(turn) }));
}
