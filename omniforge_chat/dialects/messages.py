"""The body of a request that carries its conversation: read leniently, and all problems at once.

A client is refused for what the responder could not be given as it was meant, and for nothing else.
So the newest message is checked closely. Of the earlier ones, whatever is no text is left out: a
client sends them again with each request, and could not take one back.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import msgspec

from ..errors import InvalidFields
from ..models import Message, Parameters
from ..rules import is_identifier
from .documents import kind_of

MAX_PROBLEMS = 20
"""How many wrong fields an error names. No more are looked for: a MiB has room for 500,000."""

MAX_PARAMETERS = 1000
"""How many parameters a request has at most; further ones are left out."""

MAX_PARAMETER_BYTES = 64 * 1024
"""How much JSON the lists and objects among the parameters of a request have at most."""

_SHOWN_CHARACTERS = 60
"""How much of a client's own word an error repeats."""

Part = Mapping[str, Any]


class Fields:
    """The `fields` of a body, and what is wrong with them."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.problems: List[str] = []

    def wrong(self, name: str, problem: str) -> None:
        """Note that this field is wrong. Raises InvalidFields if too many are."""
        if len(self.problems) == MAX_PROBLEMS:
            raise InvalidFields("; ".join([*self.problems, "and more"]))
        self.problems.append(f"{name}: {problem}")

    def wrong_kind(self, name: str, value: object, wanted: str) -> None:
        """Note that `value`, which is None if there is none, is not of the kind `wanted`."""
        given = "" if value is None else f", not {kind_of(value)}"
        self.wrong(name, f"must be {wanted}{given}")

    def check(self) -> None:
        """Raise InvalidFields if a field is wrong, with the names of all such fields."""
        if self.problems:
            raise InvalidFields("; ".join(self.problems))

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


def parameters(given: object, own: Collection[str] = ()) -> Parameters:
    """The fields in `given` but the format's `own`.

    An open stream holds them, and a MiB of empty lists, or of short fields, takes more than 10 of
    memory. So there are at most MAX_PARAMETERS, and the largest lists and objects are left out if
    with them there would be more than MAX_PARAMETER_BYTES.
    """
    found: Dict[str, Any] = {}
    sizes: Dict[str, int] = {}
    for name, value in given.items() if isinstance(given, dict) else ():
        if name in own:
            continue
        if len(found) == MAX_PARAMETERS:
            break
        found[name] = value
        if isinstance(value, (list, dict)):
            sizes[name] = len(msgspec.json.encode(value))
    room = MAX_PARAMETER_BYTES
    for name in sorted(sizes, key=sizes.__getitem__) if sizes else ():
        room -= sizes[name]
        if room < 0:
            del found[name]
    return Parameters(found)


class Conversation(NamedTuple):
    """The newest message, those before it, and the instructions."""

    message: str
    parts: Tuple[Part, ...]
    history: Tuple[Message, ...]
    system: str


_SYSTEM = ("system", "developer")
_SAYING = ("user", "assistant")
_TOOLS = ("tool", "function")

Others = List[Tuple[int, Part]]
"""The parts of a message that are no text, each with its number."""


def read_conversation(
    body: Fields,
    contents: Tuple[str, str],
    takes: Collection[str],
    roles: Optional[Collection[str]] = None,
) -> Conversation:
    """The conversation in the field `messages`, the last one to be read.

    The text of a message is in the first of the fields `contents` that it has. `takes` are the
    types of parts, besides text, that the newest message may have. Messages of other roles than
    the user, the assistant and the system are left out, and so are empty ones. If the format has a
    closed list of `roles`, any other is a mistake. Raises InvalidFields if any field of `body` is
    wrong.
    """
    messages = body.fields.get("messages")
    if not isinstance(messages, list):
        body.wrong_kind("messages", messages, "an array")
        messages = []
    said: List[Tuple[str, str]] = []
    system: List[str] = []
    newest, others = 0, []  # the number of the last message that was said, and its others
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role in _SAYING:
            text, found = _read(body, number, message, contents)
            if text or role == "user":
                said.append((role, text))
                newest, others = number, found
        elif role in _SYSTEM:
            system.append(_read(body, number, message, contents)[0])
        elif role in _TOOLS:
            said.append((role, ""))  # a responder cannot answer it
        else:
            _check_role(body, f"messages[{number}]", message, roles)
    role, text = said.pop() if said else ("", "")
    if role == "user":
        where = _where(newest, messages[newest], contents)
        _check_newest(body, where, text, others, takes)
    elif not body.problems:
        body.wrong("messages", "the last one must be the user's")
    body.check()
    history = tuple([Message(role, text) for role, text in said if text.strip()])
    parts = tuple([part for _, part in others])
    return Conversation(text, parts, history, "\n\n".join(filter(None, system)))


def _check_role(
    body: Fields, where: str, message: object, roles: Optional[Collection[str]]
) -> None:
    """Note what is wrong with a message that neither the user, the assistant nor a system said."""
    if not isinstance(message, dict):
        body.wrong_kind(where, message, "an object")
        return
    role = message.get("role")
    if not isinstance(role, str):
        body.wrong_kind(f"{where}.role", role, "a string")
    elif roles is not None:
        shown = f"{', '.join(roles)}, not {role[:_SHOWN_CHARACTERS]!r}"
        body.wrong(f"{where}.role", f"must be one of {shown}")


def _where(number: int, message: Part, contents: Tuple[str, str]) -> str:
    """The name of the field with the text of a message."""
    first, second = contents
    name = second if message.get(first) is None and message.get(second) is not None else first
    return f"messages[{number}].{name}"


def _check_newest(
    body: Fields, where: str, text: str, others: Others, takes: Collection[str]
) -> None:
    for number, part in others:
        if part["type"] not in takes:
            shown = part["type"][:_SHOWN_CHARACTERS]
            body.wrong(
                f"{where}[{number}]", f"a part of the type {shown!r} is not taken here; send text"
            )
    if not (others or text.strip() or body.problems):
        body.wrong(where, "must not be empty")


def _read(
    body: Fields, number: int, message: Part, contents: Tuple[str, str]
) -> Tuple[str, Others]:
    """The text of a message, and its other parts if it is the user's."""
    content = message.get(contents[0])
    if content is None:
        content = message.get(contents[1])
    if isinstance(content, str):
        return content, []
    if isinstance(content, list):
        return _parts(body, number, message, contents, content)
    if content is not None:
        body.wrong_kind(_where(number, message, contents), content, "a string or an array")
    return "", []


def _parts(
    body: Fields, number: int, message: Part, contents: Tuple[str, str], parts: Sequence[Any]
) -> Tuple[str, Others]:
    texts: List[str] = []
    others: Others = []
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if kind == "text" else None
        if isinstance(text, str):
            texts.append(text)
        elif isinstance(kind, str) and kind != "text":
            others.append((index, part))
        else:
            name = f"{_where(number, message, contents)}[{index}]"
            if not isinstance(part, dict):
                body.wrong_kind(name, part, "an object")
            elif kind == "text":
                body.wrong_kind(f"{name}.text", text, "a string")
            else:
                body.wrong_kind(f"{name}.type", kind, "a string")
    return "".join(texts), others if message["role"] == "user" else []
