"""What providers send: the frames of a reply, a model's thoughts, and refusals."""

from __future__ import annotations

import contextlib
import json
from typing import List, Tuple

from omniforge_chat.core.sse import is_encodable
from omniforge_chat.responders.providers.errors import LONGEST_TOLD, Failure, refused, reported
from omniforge_chat.responders.providers.reasons import MAX_REASON_CHARACTERS
from omniforge_chat.responders.providers.redaction import Redactor
from omniforge_chat.responders.providers.thoughts import ThoughtSplitter, without_thoughts

from ..support.relay import outcome, slowly
from ..support.variants import VARIANTS
from ..support.wires import KEY, WIRES, Wire
from .target import Target, check_line, same, splits


def _read(wire: Wire, data: bytes) -> None:
    found = same([outcome(wire.reader(), reads) for reads in splits(data)])
    assert outcome(slowly(wire), [data]) == found


def _frames_of(wire: Wire) -> Target:
    plain = [variant for variant in VARIANTS if variant.wire is wire and variant.is_plain]
    seeds = [b"".join(variant.parts) for variant in plain]
    words = (b"data:", b"event:", b"[DONE]", b"error", b"usage", b"finish_reason", b"content")
    seeds = [seed for seed in seeds if len(seed) < 4000]
    return Target(f"{wire.name}-frames", lambda data: _read(wire, data), seeds, words)


# Thoughts


def _split(pieces: List[str], *, implied: bool) -> Tuple[str, str]:
    splitter = ThoughtSplitter(implied=implied)
    found = [*map(splitter.feed, pieces), splitter.close()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


def _think(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    cuts = [[text], [*text], [text[: len(text) // 2], text[len(text) // 2 :]]]
    for implied in (False, True):
        thought, reply = same([_split(pieces, implied=implied) for pieces in cuts])
        assert len(thought) + len(reply) <= len(text)
        assert text.endswith(reply)
    assert text.endswith(without_thoughts(text))


_TAGS = (b"<think>", b"</think>", b"<thinking>", b"</thinking>", b"[THINK]", b"[/THINK]", b"<th")

# Refusals

_redact = Redactor([KEY])


def _check_failure(failure: Failure) -> None:
    check_line(str(failure.error()))
    check_line(failure.detail)
    assert len(failure.detail) < 3 * MAX_REASON_CHARACTERS + 200
    assert len(failure.message) < MAX_REASON_CHARACTERS + 200
    assert KEY not in failure.message + failure.detail
    assert is_encodable(failure.message)
    assert failure.wait is None or 0 <= failure.wait <= LONGEST_TOLD
    failure.refuses("stream_options")


def _refuse(data: bytes) -> None:
    """A status, header lines, an empty line and the body."""
    head, _, body = data.partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    number = int(status) if status.isascii() and status.isdigit() and len(status) == 3 else 500
    pairs = [line.partition(":") for line in lines]
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    _check_failure(refused(number, headers, body, _redact))
    _check_failure(reported(body.decode("utf-8", "replace"), _redact))
    with contextlib.suppress(ValueError, RecursionError):
        _check_failure(reported(json.loads(body), _redact))


_BODIES = [
    {"error": {"message": f"Incorrect key {KEY}", "type": "authentication_error", "code": 401}},
    {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
    {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}},
    [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"message": "x"}]}}],
    {"base_resp": {"status_code": 1004, "status_msg": "no"}, "errors": ['{"message": "deep"}']},
]
_HEADS = [
    b"429\nretry-after: 7",
    b"503\nretry-after: Wed, 21 Oct 2026 07:28:00 GMT\ncontent-type: application/json",
    b"429\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 1m6.5s",
    b"302\nlocation: https://user:password@h/path?key=secret",
    b"200\ncontent-type: text/html\ncontent-encoding: br",
]
_REFUSALS = [
    *(head + b"\n\n" + json.dumps(body).encode() for head, body in zip(_HEADS, _BODIES)),
    b"502\n\n<html><!-- x --><title>502</title><script>a</script>Bad &amp; ugly</html>",
    b'500\n\nevent: error\ndata: {"error": "busy"}\n\n',
    b"500\n\n",
]

TARGETS = (
    *map(_frames_of, WIRES),
    Target("thoughts", _think, [b" <think>a</think> <think>b</think> Hello", b"hm</think>"], _TAGS),
    Target("refusals", _refuse, _REFUSALS, (b"<!--", b"data:")),
)
