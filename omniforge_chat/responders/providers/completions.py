"""The chunks of OpenAI's chat completions, and what other servers make of them."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import msgspec

from ...core.sse import Frame
from .documents import HONEST, fields, finish_reason, loads, problem, words
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


def _is_thought(choice: _Choice) -> bool:
    """Whether a thought is all that a choice without text has."""
    delta = choice.delta
    if delta is None or choice.finish_reason or not (choice.usage is choice.error is None):
        return False
    if delta.content:
        return not words(delta.content)
    return bool(delta.reasoning_content or delta.reasoning)


class CompletionReader(FrameReader):
    """Reads `chat.completion.chunk` objects up to `[DONE]`.

    If you asked for several choices, the first is read. If you did not, the index of a choice says
    nothing: some servers count the tokens in it.
    """

    __slots__ = ("_messages", "_several", "_speaks", "_spoke", "_thinks")

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self._several = several
        self._speaks = self._thinks = False  # one more such frame is a usual one
        self._spoke = False  # a delta had text
        self._messages = ""  # the text of messages so far

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
            delta = choice.delta
            text = None if delta is None else delta.content
            if type(text) is str and text:
                alone = choice.finish_reason is choice.usage is choice.error is None
                usual = (alone and self._speaks) or self._begins(choice)
            else:
                usual, text = self._thinks and _is_thought(choice), ""
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
        if text:
            self._spoke = True
        else:
            message = fields(choice.get("message"))
            whole = message.get("content") or message.get("refusal") or choice.get("text")
            text = self._unsaid(words(whole)) if whole else ""
        reason = finish_reason(choice.get("finish_reason"))
        self.work(busy=busy or bool(text), reason=reason)
        usual = self.finish_reason is None and not self._several
        self._speaks = usual and self._spoke
        self._thinks = usual and (self._thinks or busy)
        return text

    def _unsaid(self, whole: str) -> str:
        """Return the text of a message, if no delta has said it, without what was said already.

        Perplexity sends the whole text so far beside each delta. Others send no deltas, and either
        that or one piece of text in each message.
        """
        if self._spoke:
            return ""
        if self._messages and whole.startswith(self._messages):
            said, self._messages = self._messages, whole
            return whole[len(said) :]
        self._messages += whole
        return whole

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
