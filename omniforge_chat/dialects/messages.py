"""The body of a request that carries its conversation: read leniently, and all problems at once.

A client is refused for what the responder could not be given as it was meant, and for nothing else.
So the newest message is checked closely. Of the earlier ones, whatever is no text is left out: a
client sends them again with each request, and could not take one back.
"""

from __future__ import annotations

from typing import Any, Collection, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import InvalidFields
from ..models import Message
from ..settings import is_identifier
from .documents import kind_of

MAX_PROBLEMS = 20
"""How many wrong fields an error names."""

_SHOWN_CHARACTERS = 60
"""How much of a client's own word an error repeats."""

Part = Mapping[str, Any]


class Fields:
    """The `fields` of a body, and what is wrong with them."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.problems: List[str] = []

    def wrong(self, name: str, problem: str) -> None:
        """Note that this field is wrong."""
        self.problems.append(f"{name}: {problem}")

    def wrong_kind(self, name: str, value: object, wanted: str) -> None:
        """Note that `value`, which is None if there is none, is not of the kind `wanted`."""
        given = "" if value is None else f", not {kind_of(value)}"
        self.wrong(name, f"must be {wanted}{given}")

    def check(self) -> None:
        """Raise InvalidFields if a field is wrong, with the names of all such fields."""
        problems = self.problems
        more = len(problems) - MAX_PROBLEMS
        if more > 0:
            problems[MAX_PROBLEMS:] = [f"and {more} more"]
        if problems:
            raise InvalidFields("; ".join(problems))

    def text(self, name: str) -> str:
        """The text of a field that may be absent."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return value
        if value is not None:
            self.wrong_kind(name, value, "a string")
        return ""

    def identifier(self, *names: str) -> Optional[str]:
        """The id in the first of these fields that is there."""
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, str):
                if not is_identifier(value):
                    self.wrong(name, "must be 1 to 128 visible ASCII characters")
                return value
            if value is not None:
                self.wrong_kind(name, value, "a string")
        return None


class Conversation(NamedTuple):
    """The newest message, those before it, and the instructions."""

    message: str
    parts: Tuple[Part, ...]
    history: Tuple[Message, ...]
    system: str


class _Said(NamedTuple):
    """A message that was read; `others` are its parts that are no text, each with its place."""

    role: str
    text: str
    others: Sequence[Tuple[str, Part]]
    where: str


def read_conversation(
    body: Fields, contents: Sequence[str], takes: Collection[str]
) -> Optional[Conversation]:
    """The conversation in the field `messages`; None if `body` has problems.

    The text of a message is in the first of the fields `contents` that it has. `takes` are the
    types of parts, besides text, that the newest message may have. Messages of other roles than
    the user, the assistant and the system are left out, and so are empty ones.
    """
    messages = body.fields.get("messages")
    if not isinstance(messages, list):
        body.wrong_kind("messages", messages, "an array")
        return None
    said: List[_Said] = []
    system: List[str] = []
    for number, message in enumerate(messages):
        read = _read(body, f"messages[{number}]", message, contents)
        if read is None:
            continue
        if read.role in ("system", "developer"):
            system.append(read.text)
        elif read.role == "user" or read.text:
            said.append(read)
    newest = said.pop() if said else None
    if newest is None or newest.role != "user":
        if not body.problems:
            body.wrong("messages", "the last one must be the user's")
        return None
    for where, part in newest.others:
        if part["type"] not in takes:
            shown = part["type"][:_SHOWN_CHARACTERS]
            body.wrong(where, f"a part of the type {shown!r} is not taken here; send text")
    if not (newest.others or newest.text.strip() or body.problems):
        body.wrong(newest.where, "must not be empty")
    history = tuple(Message(role, text) for role, text, _, _ in said if text.strip())
    parts = tuple(part for _, part in newest.others)
    return Conversation(newest.text, parts, history, "\n\n".join(filter(None, system)))


def _read(body: Fields, where: str, message: object, contents: Sequence[str]) -> Optional[_Said]:
    if not isinstance(message, dict):
        body.wrong_kind(where, message, "an object")
        return None
    role = message.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        if not isinstance(role, str):
            body.wrong_kind(f"{where}.role", role, "a string")
        return None
    name = next((name for name in contents if message.get(name) is not None), contents[0])
    content, where = message.get(name), f"{where}.{name}"
    if isinstance(content, str):
        return _Said(role, content, (), where)
    if isinstance(content, list):
        return _parts(body, where, role, content)
    if content is not None:
        body.wrong_kind(where, content, "a string or an array")
    return _Said(role, "", (), where)


def _parts(body: Fields, where: str, role: str, parts: Sequence[object]) -> _Said:
    texts: List[str] = []
    others: List[Tuple[str, Part]] = []
    for number, part in enumerate(parts):
        name = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict):
            body.wrong_kind(name, part, "an object")
        elif not isinstance(kind, str):
            body.wrong_kind(f"{name}.type", kind, "a string")
        elif kind != "text":
            others.append((name, part))
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            body.wrong_kind(f"{name}.text", part.get("text"), "a string")
    # A reply has several texts if there were thoughts between: together they are what was said.
    text = ("" if role == "assistant" else "\n").join(texts)
    return _Said(role, text, others if role == "user" else (), where)
