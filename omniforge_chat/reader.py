"""A reader of the stream for clients in Python, on httpx: the extra `client`.

    with httpx.Client() as client, Chat(client, url, "Hello") as reply:
        for text in reply:
            print(text, end="")
    print(reply.done["usage"])

`Chat` and `ChatFailed` are public.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Callable, Dict, Generator, Iterator, Optional, Union

import httpx

from .core.sse import Decoder, FrameTooLarge

# A heartbeat comes every 15 seconds. If nothing comes for longer, the connection is dead.
TIMEOUT = httpx.Timeout(10.0, read=45.0)

# A frame of the chat has some 16 KiB, and a refusal less. It bounds the memory of the reader.
_MOST_BYTES = 16 * 1024 * 1024


class ChatFailed(Exception):
    """The chat was refused, failed on its way or was cut.

    | the trouble | code | status |
    |---|---|---|
    | the chat refused the message | the chat's | its own |
    | a proxy or another server answered | the status, such as "502" | its own |
    | the reply failed | the chat's or the responder's | |
    | the stream ended with neither `done` nor `error` | "cut" | |
    | an event does not have the chat's form | "unreadable" | |

    `retry_after` are seconds to wait before the next try, if the server says so; `usage` is that
    of a reply that failed after some text.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: Optional[int] = None,
        retry_after: Optional[int] = None,
        usage: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.retry_after = retry_after
        self.usage = usage


class Chat:
    """One message and its reply, to be read within a `with` block.

    The loop gives the pieces of the text, as they come. It raises ChatFailed unless the reply is
    complete, and httpx.TransportError if there is no connection. `done` is the data of the last
    event then. To stop the reply, leave the block. `on_thought` gets the pieces of the model's
    thoughts, if the service shows them. `fields` are further fields of the request, such as
    `conversation_id`.
    """

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        message: str,
        *,
        on_thought: Optional[Callable[[str], None]] = None,
        **fields: Any,
    ) -> None:
        self.done: Dict[str, Any] = {}
        self._on_thought = on_thought
        self._pieces = self._read(client, url, {**fields, "message": message})

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *error: object) -> None:
        self._pieces.close()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def _read(
        self, client: httpx.Client, url: str, body: Dict[str, Any]
    ) -> Generator[str, None, None]:
        with client.stream("POST", url, json=body, timeout=TIMEOUT) as response:
            if response.status_code != 200 or _media_type(response) != "text/event-stream":
                raise _refusal(response)
            decoder = Decoder(max_frame_bytes=_MOST_BYTES)
            try:
                for read in response.iter_bytes():
                    for frame in decoder.feed(read):
                        if frame.event == "chunk":
                            yield _string(_fields_of(frame.data), "content")
                        elif frame.event == "thought" and self._on_thought is not None:
                            self._on_thought(_string(_fields_of(frame.data), "content"))
                        elif frame.event == "error":
                            raise _failure(_fields_of(frame.data))
                        elif frame.event == "done":
                            self.done = _fields_of(frame.data)
                            return
            except FrameTooLarge as error:
                raise ChatFailed("unreadable", f"The stream is none of a chat: {error}") from error
            except httpx.RequestError as error:
                raise ChatFailed("cut", f"The connection broke: {error}") from error
        raise ChatFailed("cut", "The stream ended before the reply did")


def _refusal(response: httpx.Response) -> ChatFailed:
    """The failure of an answer that is no stream.

    A proxy may have sent it, in a form of its own, so the body is read only if it says that it is
    JSON.
    """
    status, kind = response.status_code, _media_type(response)
    after = response.headers.get("Retry-After", "")
    # A date is none of the chat's, and int() refuses very many digits.
    retry_after = int(after) if after.isdecimal() and len(after) < 10 else None
    if kind.endswith(("/json", "+json")):
        with contextlib.suppress(ChatFailed, httpx.RequestError):
            told = _failure(_fields_of(_body(response)))
            return ChatFailed(told.code, told.message, status=status, retry_after=retry_after)
    message = f"The chat did not answer: status {status} with {kind or 'no Content-Type'}"
    return ChatFailed(str(status), message, status=status, retry_after=retry_after)


def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    for read in response.iter_bytes():
        body += read
        if len(body) > _MOST_BYTES:
            raise ChatFailed("unreadable", "The answer is too long")
    return bytes(body)


def _failure(fields: Dict[str, Any]) -> ChatFailed:
    """The failure in the JSON of an error."""
    return ChatFailed(
        _string(fields, "code"), _string(fields, "message"), usage=fields.get("usage")
    )


def _media_type(response: httpx.Response) -> str:
    kind: str = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower()


def _fields_of(data: Union[str, bytes]) -> Dict[str, Any]:
    """The fields of an object in JSON."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChatFailed("unreadable", "The data of an event are not JSON") from error
    if not isinstance(fields, dict):
        raise ChatFailed("unreadable", "The data of an event are no object")
    return fields


def _string(fields: Dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ChatFailed("unreadable", f"The data of an event have no {name}")
    return value
