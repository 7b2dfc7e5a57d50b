"""A provider's own words for a failure: found in whatever form they come, and put on one line.

Providers, gateways and proxies each have a form of their own: an object, a list of them, an object
in the place of a text, JSON in a string, a page, plain text. One search reads them all. It goes
through the places that hold words, and notes the names of the error on its way.
"""

from __future__ import annotations

import html
import re
from typing import Any, Callable, Dict, List, Tuple

import msgspec

MAX_REASON_CHARACTERS = 300
"""The longest part of a provider's own words that is passed on."""

MAX_NAME_CHARACTERS = 100
"""The longest part of a header, and of the names for an error."""

Redact = Callable[[str], str]

_PLACES = (
    "error",
    "x_groq",
    "message",
    "error_message",
    "msg",
    "status_msg",
    "detail",
    "errors",
    "base_resp",
    "fault",
    "faultstring",
    "error_description",
    "description",
    "title",
    "details",
)
"""The keys below which words stand, the best ones first."""

_NAMES = ("code", "type", "status", "status_code", "error_code", "errorCode")
"""The keys whose values are names of an error, for machines."""

_SAY_NOTHING = ("", "error", "fail", "failed", "about:blank")

_PLACES_OF_A_FIELD = ("param", "loc", "field", "parameter")
"""The keys whose values name the field of the request that is wrong (OpenAI, FastAPI, others)."""

_MAX_DEPTH = 6
_MAX_ITEMS = 8

_FIELDS = ("data:", "event:", "id:", "retry:", ":")
"""A stream of events begins with one of them."""

_decode = msgspec.json.Decoder().decode
_tags = re.compile(r"<([^<>]*)>").split
_first_data = re.compile(r"^data: ?(.*)", re.MULTILINE).search
_is_refused = re.compile(
    r"un(known|recogni[sz]ed|supported|expected)|not (supported|recogni[sz]ed|permitted|allowed)"
    r"|(extra|additional)[ _](fields?|inputs?|propert|forbidden)|forbidden|cannot find|no such"
    r"|does(n't| not) support|only allowed|not a valid (argument|field|param|propert)"
    r"|invalid (argument|field|key|param|propert)",
    re.IGNORECASE,
).search


class Words(msgspec.Struct, frozen=True):
    """The words of a provider for one failure.

    `kinds` are its names for it, unchanged; `reason` is a sentence, redacted, on one line; `fields`
    are the fields of the request that it names. `is_document` tells a document that it made from a
    text, which may be that of a proxy.
    """

    kinds: Tuple[str, ...] = ()
    reason: str = ""
    fields: Tuple[str, ...] = ()
    is_document: bool = True

    def refuse(self, field: str) -> bool:
        """Whether they say that the provider does not know `field` of the request."""
        if any(field in re.split(r"[.\[\]]", found) for found in self.fields):
            named = True
        elif any(found.startswith("messages") for found in self.fields):
            named = False  # the reason may quote the conversation
        else:
            # Rust's serde lists the fields that it knows behind that.
            text = self.reason.partition(", expected ")[0]
            named = re.search(rf"(?<![\w.]){field}(?!\w)", text) is not None
        return named and _is_refused(" ".join((*self.kinds, self.reason))) is not None


def words_of(problem: object, redact: Redact) -> Words:
    """Find the words in a decoded document, or in a text."""
    search = _Search()
    search.look(problem, "")
    kinds = tuple(dict.fromkeys(search.kinds))
    return Words(kinds, one_line("; ".join(dict.fromkeys(search.texts)), redact), search.fields)


def words_in(body: bytes, redact: Redact, *, is_reply: bool = False) -> Words:
    """Find the words in a body of any kind.

    If it may be a reply, which only is no stream, its text is none of them: that is no business of
    the log.
    """
    text = body.decode("utf-8", "replace").lstrip("\ufeff").strip()
    frame = _first_data(text) if text.startswith(_FIELDS) else None
    if frame is not None:  # a gateway that had begun to stream
        text = frame[1].strip()
    document = _decoded(text) or _decoded(text.partition("\n")[0])
    if document is None:
        plain = _text_of_page(text) if text.startswith("<") else text
        if is_reply and text[:1] in ("{", "["):
            plain = "a document that cannot be read"
        return Words(reason=one_line(plain, redact), is_document=False)
    words = words_of(document, redact)
    if words.reason or not isinstance(document, dict):
        return words
    keys = one_line(f"a document of {', '.join(document)}", redact)
    return msgspec.structs.replace(words, reason=keys, is_document=False)


def one_line(text: object, redact: Redact, longest: int = MAX_REASON_CHARACTERS) -> str:
    """Put `text` on one short line without control characters; empty if it is no text."""
    if isinstance(text, int):
        text = str(text)
    if not isinstance(text, str):
        return ""
    # The line needs no more, and a text of megabytes is not worth splitting.
    near = redact(text)[: 4 * longest]
    words = "".join(c if c.isprintable() else " " for c in near)
    line = " ".join(words.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


class _Search:
    """The names, texts and fields in one document."""

    def __init__(self) -> None:
        self.kinds: List[str] = []
        self.texts: List[str] = []
        self.fields: Tuple[str, ...] = ()

    def look(self, problem: object, field: str, depth: int = 0) -> None:
        """Note all that `problem` says, which is about `field`."""
        if isinstance(problem, str):
            document = _decoded(problem.strip())
            if not isinstance(document, (dict, list)):
                self._say(document or problem, field)
                return
            problem = document
        if depth == _MAX_DEPTH:
            return
        if isinstance(problem, list):
            for item in problem[:_MAX_ITEMS]:
                self.look(item, field, depth + 1)
        elif isinstance(problem, dict) and problem.get("status_code") != 0:  # MiniMax's success
            self._note_names(problem)
            field = self._field_of(problem) or field
            for place in _PLACES:
                if place != "details" or not self.texts:  # Google repeats itself there
                    self.look(problem.get(place), field, depth + 1)

    def _say(self, text: str, field: str) -> None:
        text = text.strip()
        if text and text.lower() not in _SAY_NOTHING:
            self.texts.append(text if not field or field in text else f"{field}: {text}")

    def _note_names(self, problem: Dict[Any, Any]) -> None:
        for name in _NAMES:
            value = problem.get(name)
            known = type(value) in (str, int)  # a bool is no name
            if known and str(value).lower() not in _SAY_NOTHING:
                self.kinds.append(str(value))

    def _field_of(self, problem: Dict[Any, Any]) -> str:
        for place in _PLACES_OF_A_FIELD:
            value = problem.get(place)
            parts = value if isinstance(value, list) else [value]
            field = ".".join(str(part) for part in parts if isinstance(part, (str, int)))
            if field:
                self.fields += (field,)
                # A sentence with a `param` mostly names it itself.
                return field if place == "loc" else ""
        return ""


def _decoded(text: str) -> Any:
    """The object, list or text that `text` is in JSON; None if it is none of them."""
    if text[:1] in ("{", "[", '"'):
        try:
            return _decode(text.encode("utf-8", "replace"))
        except (msgspec.DecodeError, RecursionError):
            pass
    return None


def _text_of_page(page: str) -> str:
    """The title of a page in HTML, and the text that it shows."""
    first, *others = page.split("<!--")
    shown = _tags(first + "".join(other.partition("-->")[2] for other in others))
    title, hidden, texts = "", "", []
    for tag, text in zip(["", *shown[1::2]], shown[::2]):
        name = tag.split(None, 1)[0].lower() if tag.strip() else ""
        if name == f"/{hidden}":
            hidden = ""
        if not hidden:
            if name in ("script", "style", "svg", "title"):
                hidden = name
                title = title or (text.strip() if name == "title" else "")
            else:
                texts.append(text)
    text = " ".join(texts).strip()
    parts = [text] if not title or text.startswith(title) else [title, text]
    return html.unescape(": ".join(filter(None, parts)))
