"""The chunks of OpenAI's chat completions, and what other servers make of them."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import msgspec

from ...core.sse import Frame
from .documents import HONEST, fields, finish_reason, loads, problem, thought_in, words
from .reader import FrameReader


# Only the fields that a usual frame needs: msgspec skips all others without building them.
class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: Optional[_Delta] = None
    finish_reason: Any = None
    usage: Any = None
    error: Any = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: Optional[List[_Choice]] = None
    usage: Optional[_Usage] = None
    error: Any = None
    x_groq: Any = None
    base_resp: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode

_WORK = {
    "content",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "tool_calls",
    "function_call",
    "audio",
}
"""The parts of a delta that show the model at work; the content may be a thought."""


def _lone_thought(choice: _Choice) -> str:
    """Return the thought that is all that a choice has; empty if it has something else."""
    delta = choice.delta
    if delta is None or choice.finish_reason or not (choice.usage is choice.error is None):
        return ""
    content = delta.content
    if content and words(content):
        return ""
    return _thought(content, delta.reasoning_content, delta.reasoning)


def _thought(content: object, *named: object) -> str:
    """Return the thought of a delta or message. Some send it under several names: it is one."""
    for text in named:
        if text and isinstance(text, str):
            return text
    return "" if isinstance(content, str) else thought_in(content)


def _named_thought(holder: Dict[str, Any]) -> str:
    return _thought(holder.get("content"), holder.get("reasoning_content"), holder.get("reasoning"))


def _detailed(details: object) -> str:
    """Return the thought in OpenRouter's `reasoning_details`, which MiniMax sends alone."""
    parts = map(fields, details if isinstance(details, list) else [])
    texts = (part.get("text") or part.get("summary") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


class _Whole:
    """A text that comes whole so far, time and again: Perplexity's, beside each delta.

    Others send no deltas, and either that or one piece of the text in each message.
    """

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said = ""

    def news(self, text: str) -> str:
        """Return `text` without the part that was said already."""
        if self._said and text.startswith(self._said):
            said, self._said = self._said, text
            return text[len(said) :]
        self._said += text
        return text


class CompletionReader(FrameReader):
    """Reads `chat.completion.chunk` objects up to `[DONE]`.

    If you asked for several choices, the first is read. If you did not, the index of a choice says
    nothing: some servers count the tokens in it.
    """

    __slots__ = ("_messages", "_mused", "_musings", "_several", "_speaks", "_spoke", "_thinks")

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self._several = several
        self._speaks = self._thinks = False  # one more such frame is a usual one
        self._spoke = self._mused = False  # a delta had text; it had a thought
        self._messages, self._musings = _Whole(), _Whole()  # if there are none in deltas

    def read(self, frame: Frame) -> str:
        if frame.event == "error":
            return self._look(frame)
        try:
            chunk = _decode(frame.data)
        except msgspec.DecodeError:
            return self._look(frame)
        choices, usage = chunk.choices, chunk.usage
        if not (chunk.error is chunk.x_groq is chunk.base_resp is None):
            return self._look(frame)
        if choices:
            choice = choices[0]
            delta: Any = choice.delta
            text = None if delta is None else delta.content
            if type(text) is str and text:
                if (
                    choice.finish_reason is choice.usage is choice.error is usage is None
                    and self._speaks
                    and not (delta.reasoning_content or delta.reasoning)
                ):
                    self.progressed = True
                    return text
                usual = self._begins(choice)
                if usual:
                    self._muse(_thought("", delta.reasoning_content, delta.reasoning))
            else:
                usual, text = self._thinks and self._muse(_lone_thought(choice)), ""
            if usual:
                self.progressed = True
                if usage is not None:
                    self.count(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
                return text
        elif (
            choices is not None
            and usage is not None  # which some servers make large: it is not looked at again
            and self.count(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
        ):
            return ""
        return self._look(frame)

    def _begins(self, choice: _Choice) -> bool:
        """Note the first text, or one with a reason; False if there may be more to note."""
        reason = choice.finish_reason
        if self._several or not (choice.usage is choice.error is None):
            return False
        if reason and not (type(reason) is str and reason in HONEST):
            return False
        self._spoke = True
        self.work(busy=True, reason=reason or None)
        self._speaks = not reason
        self._thinks = self._thinks and self._speaks
        return True

    def _look(self, frame: Frame) -> str:
        """Read a frame that is not one more of the same."""
        data = frame.data.strip()
        if frame.event.lower() in ("error", "exception"):
            self.report(data)
            return ""
        if data.startswith("[DONE]"):
            self.end()
            return ""
        if not data:
            return ""
        try:
            document = loads(data)
        except msgspec.DecodeError:
            if frame.event != "message":
                return ""  # the words of a ping, say
            raise
        if isinstance(document, list) and document:  # as Gemini reports its errors
            first = document[0]
            document = first if len(document) == 1 or fields(first).get("error") else document
        if document is None:
            return ""
        if not isinstance(document, dict):
            seen = f": {document}" if isinstance(document, str) else ""
            raise msgspec.ValidationError(f"a {type(document).__name__} is no chunk{seen}")
        return self._read(document, named=frame.event != "message")

    def _read(self, document: Dict[str, Any], *, named: bool) -> str:
        choice = self._choice(document.get("choices"))
        self.name(document)
        text = "" if choice is None else self._text(choice)
        counted = self._count(document, fields(choice))
        at_work = choice is not None or (counted and document.get("choices") == [])
        error = problem(document, at_work=named or at_work)
        for holder in (fields(choice), fields(fields(choice).get("delta"))):
            error = error or holder.get("error")
        if error:
            self.fail(error)
        return self.mended(text)

    def _choice(self, choices: Any) -> Optional[Dict[str, Any]]:
        """Return the choice that is read; None if there is none in a frame."""
        if not choices:
            return None
        if not isinstance(choices, list):
            raise msgspec.ValidationError(f"a {type(choices).__name__} is no list of choices")
        choice = choices[0]
        if self._several:
            choice = next((c for c in choices if fields(c).get("index") in (None, 0, "0")), {})
        if choice is not None and not isinstance(choice, dict):
            raise msgspec.ValidationError(f"a {type(choice).__name__} is no choice")
        return choice

    def _text(self, choice: Dict[str, Any]) -> str:
        """Return the text of a choice, and note what else it tells."""
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise msgspec.ValidationError(f"a {type(delta).__name__} is no delta")
        text = words(delta.get("content")) or words(delta.get("refusal"))
        busy = bool(text) or any(part and name in _WORK for name, part in delta.items())
        self._muse(self.mended(_named_thought(delta)))
        if text:
            self._spoke = True
        else:
            message = fields(choice.get("message"))
            if not self._mused:
                thought = _detailed(delta.get("reasoning_details")) or _named_thought(message)
                self.think(self.mended(self._musings.news(thought)))
            whole = message.get("content") or message.get("refusal") or choice.get("text")
            text = self._messages.news(words(whole)) if whole and not self._spoke else ""
        reason = finish_reason(choice.get("finish_reason"))
        self.work(busy=busy or bool(text), reason=reason)
        usual = self.finish_reason is None and not self._several
        self._speaks = usual and self._spoke
        self._thinks = usual and (self._thinks or busy)
        return text

    def _muse(self, thought: str) -> bool:
        """Note the thought of a delta; False if it has none."""
        if thought:
            self._mused = True
            self.think(thought)
        return bool(thought)

    def _count(self, document: Dict[str, Any], choice: Dict[str, Any]) -> bool:
        """Note the usage, wherever it stands; return whether there is one.

        Moonshot's is in the choice, and Groq's in a field of its own.
        """
        for holder in (document, choice, fields(document.get("x_groq"))):
            usage = holder.get("usage")
            if usage and isinstance(usage, dict):
                prompt = usage.get("prompt_tokens") or usage.get("input_tokens")
                completion = usage.get("completion_tokens") or usage.get("output_tokens")
                if self.count(prompt, completion, usage.get("total_tokens")):
                    return True
        return False
