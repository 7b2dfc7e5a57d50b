"""Bodies of requests, good and bad."""

from __future__ import annotations

import json
from typing import Any, Union

from hypothesis import strategies as st

from omniforge_chat.dialects import Dialect, Request
from omniforge_chat.dialects.native import parse
from omniforge_chat.errors import RequestError
from omniforge_chat.models import ChatRequest


def judge(body: bytes) -> Union[ChatRequest, RequestError]:
    """What becomes of a body; nothing else may come of it."""
    try:
        return parse(body)
    except RequestError as error:
        return error


texts = st.text() | st.text(alphabet=" \t\n\x1f\x85\u3000") | st.text(alphabet='\\ud80é😀\0\ufeff"')
ids = st.uuids().map(str) | st.uuids(version=4).map(str) | texts
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
messages = texts.filter(lambda text: text.strip() != "")
objects = st.fixed_dictionaries(
    {},
    optional={
        "message": texts | values,
        "conversation_id": ids | values,
        "regenerate": st.booleans() | values,
        "edits": texts | values,
        "on_disconnect": st.sampled_from(["cancel", "continue"]) | numbers | values,
        "stream": values,
    },
)


def judged_request(dialect: Dialect, body: bytes) -> Union[Request, RequestError]:
    """What becomes of a body in another format; nothing else may come of it."""
    try:
        return dialect.decode(body, {})
    except RequestError as error:
        return error


def ui_bodies(*contents: str) -> st.SearchStrategy[bytes]:
    """Bodies of formats that carry the conversation, whose messages have these fields."""
    part = st.fixed_dictionaries(
        {}, optional={"type": st.sampled_from(["text", "file"]) | values, "text": texts | values}
    )
    content = texts | st.lists(part | values, max_size=3) | values
    role = st.sampled_from(["user", "assistant", "system", "tool"]) | values
    fields = dict.fromkeys(contents, content)
    message = st.fixed_dictionaries({"role": role}, optional=fields)
    body = st.fixed_dictionaries(
        {"messages": st.lists(message | values, max_size=4) | values},
        optional=dict.fromkeys(("id", "threadId", "runId", "system", "trigger"), ids | values),
    )
    return body.map(lambda fields: json.dumps(fields).encode())
