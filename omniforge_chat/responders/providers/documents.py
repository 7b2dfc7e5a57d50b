"""The JSON documents in a reply's frames, read leniently: what decides nothing may look as it will.

Each wire format decodes its usual frames with a typed decoder. What that cannot read, and what it
does not know, is looked at here, as a plain dict.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Optional

import msgspec

_decode = msgspec.json.Decoder().decode


def loads(data: str) -> Any:
    """Decode JSON, also with NaN, half of a surrogate pair, or a control character in it.

    Raises msgspec.DecodeError if that does not help.
    """
    try:
        return _decode(data)
    except msgspec.DecodeError:
        try:
            return json.loads(data, strict=False, parse_int=_whole)
        except ValueError:
            pass
        if data[:1] in ("{", "["):
            raise
        raise msgspec.DecodeError(f"no JSON: {data}") from None  # it may be the reason


def _whole(digits: str) -> float:
    # Python may refuse more digits (sys.set_int_max_str_digits), and no count has so many.
    return int(digits) if len(digits) <= 640 else float(digits)


def fields(value: object) -> Dict[str, Any]:
    """Return `value` if it is an object; else an object without fields."""
    return value if isinstance(value, dict) else {}


def words(content: object) -> str:
    """Return the text of a content: a string, or parts of which some are text.

    Mistral's models think in parts of other types. Raises msgspec.ValidationError for a content
    that can be neither, as its text would be lost.
    """
    if isinstance(content, str):
        return content
    if not content:
        return ""
    parts: List[Any] = content if isinstance(content, list) else [content]
    found = ""
    for part in parts:
        if isinstance(part, dict):
            text = part.get("text")
            if part.get("type") in (None, "text", "output_text") and isinstance(text, str):
                found += text
        elif isinstance(part, str):
            found += part
        else:
            raise msgspec.ValidationError(f"content is a {type(part).__name__}")
    return found


_THOUGHTS = {"thinking": "thinking", "reasoning": "summary"}
"""The types of parts that are thoughts, and where these are; the latter is Databricks'."""


def thought_in(content: object) -> str:
    """Return the thoughts in a content: some of its parts, each a text or parts of text.

    No reply fails for a thought: one that cannot be read is passed over.
    """
    found = ""
    for part in content if isinstance(content, list) else [content]:
        kind = fields(part).get("type")
        place = _THOUGHTS.get(kind, "") if isinstance(kind, str) else ""
        inner = fields(part).get(place)
        for piece in inner if isinstance(inner, list) else [inner]:
            text = piece.get("text") if isinstance(piece, dict) else piece
            found += text if isinstance(text, str) else ""
    return found


def problem(document: Dict[str, Any], *, at_work: bool = False) -> object:
    """Return the error that `document` reports, in the provider's form; None if it reports none.

    Only three forms count if the model is `at_work`: the document holds a part of its reply. Else
    it is an error, too, if it looks like one in any other way.
    """
    if document.get("error"):
        return document["error"]
    if "x_groq" in document and fields(document["x_groq"]).get("error"):
        return document["x_groq"]["error"]
    if "base_resp" in document:
        minimax = fields(document["base_resp"])
        code = minimax.get("status_code")
        if code and code not in _SUCCESS:
            return {"code": code, "message": minimax.get("status_msg")}
    return None if at_work else _unwrapped(document)


_SUCCESS = (0, 200, "0", "200", "ok", "OK", "success")
_REASONS = ("message", "detail", "errors", "msg", "error_msg", "exception")


def _unwrapped(document: Dict[str, Any]) -> object:
    """Return the error in a document that is one itself, and no part of a reply."""
    if document.get("object") == "error" or document.get("type") == "error":
        return document
    code = document.get("code", document.get("error_code"))
    if code in _SUCCESS:
        return None
    name = next((name for name in _REASONS if document.get(name)), "text" if code else "")
    reason = document.get(name)
    if "role" in fields(reason):  # the message of a chat
        return None
    if name in ("message", "detail", "errors"):
        return document
    if reason or code or document.get("success") is False:
        return {"code": code, "message": reason}
    if document.get("status") in ("error", "failed"):
        return f"the status is {document['status']}"
    if document.get("error") is not None and not document.get("usage"):
        return "no reason was given"  # an error that is empty, and nothing else
    return None


# A reason for the end of a text

HONEST = {"stop", "length", "content_filter", "tool_calls", "end_turn", "max_tokens", "tool_use"}
_NONE = {"", "null", "none", "nil", "undefined", "finishreasonunspecified"}

_tells_of_a_failure = re.compile(
    "^oom|abort|busy|cancel|connection|crash|deadline|disconnect|dropped|error|evict|exception|expired"
    "|fail|gone|insufficient|internal|interrupt|killed|malfunction|network|outofmemory|overload|preempt|quota"
    "|ratelimit|resource|shutdown|stalled|terminated|timedout|timeout|unavailable|unreachable"
).search


def finish_reason(reason: object) -> Optional[str]:
    """Return a reason for the end of the text as it is, but fit to be shown; None for no reason.

    Some servers send one with every frame before the last, as "" or "null".
    """
    if not isinstance(reason, str) or not reason:
        return None
    if reason in HONEST:
        return reason
    if _letters(reason) in _NONE:
        return None
    return "".join(filter(str.isprintable, reason)).strip()[:100]


def gave_up(reason: str) -> bool:
    """Whether the reason says that the server gave the reply up, and nothing of its text.

    Any other reason that nobody knows is the provider's own name for an end.
    """
    return reason not in HONEST and _tells_of_a_failure(_letters(reason)) is not None


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text.lower()))
