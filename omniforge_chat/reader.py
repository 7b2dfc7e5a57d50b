"""A reader of the stream for clients in Python, on httpx: the extra `client`.

    with httpx.Client() as client, Chat(client, url, "Hello") as reply:
        for text in reply:
            print(text, end="")
    print(reply.done["usage"])

The message is sent once. If its connection breaks and the service keeps replies, the reader asks
for what comes behind the last event that it has, by the reply's id.

`Chat` and `ChatFailed` are public.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from typing import Any, Callable, Dict, Generator, Iterator, Optional, Union
from urllib.parse import quote

import httpx

from .core.sse import Decoder, Frame, FrameTooLarge

# A heartbeat comes every 15 seconds. If nothing comes for longer, the connection is dead.
TIMEOUT = httpx.Timeout(10.0, read=45.0)

# A frame of the chat has some 16 KiB, and a refusal less. It bounds the memory of the reader.
_MOST_BYTES = 16 * 1024 * 1024

# Tries in a row without an event: some 30 seconds, if nobody answers. And the milliseconds between
# them, unless the service asks for others.
_TRIES = 6
_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 1000, 8000, 30_000

# Seconds for each step of telling the service to stop a reply, and for the end of the reply then.
_TELLING, _ENDING = 2.0, 5.0

# The id of the event that ends a reply ends so.
_OVER = ".9007199254740991"


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
    complete, and httpx.TransportError if there is no connection for the message. `done` is the data
    of the last event then, and `id` that of the reply, if the service keeps it. To stop the reply,
    leave the block.

    `on_thought` gets the pieces of the model's thoughts, if the service shows them. `on_resume`
    gets True when the connection is lost and the reply is asked for again, and False when it goes
    on. A service that keeps replies makes one reply for each `idempotency_key`. `key` says who
    asks: a key or a token, sent as `Authorization: Bearer`; ValueError if it can be none. `fields`
    are further fields of the request, such as `conversation_id`.
    """

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        message: str,
        *,
        on_thought: Optional[Callable[[str], None]] = None,
        on_resume: Optional[Callable[[bool], None]] = None,
        idempotency_key: Optional[str] = None,
        key: Optional[str] = None,
        **fields: Any,
    ) -> None:
        self.done: Dict[str, Any] = {}
        self.id: Optional[str] = None
        self._client = client
        self._url = url
        self._on_thought = on_thought
        self._on_resume = on_resume
        self._last_id = ""
        self._wait = _WAIT
        self._waiting = False
        self._running = False  # the service keeps the reply, and has not told its end
        self._told = False  # that it is to end
        self._ends_by = math.inf
        if key is not None and not is_key(key):
            raise ValueError("a key has visible ASCII characters alone")
        # Its repr does not show the key.
        self._headers = httpx.Headers({} if key is None else {"Authorization": f"Bearer {key}"})
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        self._pieces = self._read({**fields, "message": message}, headers)

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *error: object) -> None:
        self._pieces.close()
        if self._running and not self._told:
            self._tell()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def stop(self) -> None:
        """End the reply, and its loop; another thread may call it.

        `done` then has the `finish_reason` "stopped". But it is empty if the service keeps no
        replies, or cannot be reached; the loop then ends with the next thing that comes.
        """
        told = self._running and self._tell()
        self._ends_by = time.monotonic() + _ENDING if told else 0.0

    def _tell(self) -> bool:
        """Tell the service that the reply is to end, and return whether it heard it."""
        self._told = True
        with contextlib.suppress(httpx.RequestError):
            url, headers = self._address(), self._headers
            return self._client.delete(url, headers=headers, timeout=_TELLING).is_success
        return False

    def _address(self) -> httpx.URL:
        """It is made of the chat's address.

        The header Location may lack the prefix of a proxy, and could lead the headers of the client
        to another host.
        """
        url = httpx.URL(self._url)
        path, mark, query = url.raw_path.partition(b"?")
        own = f"/replies/{quote(self.id or '', safe='')}".encode()
        return url.copy_with(raw_path=path.rstrip(b"/") + own + mark + query)

    def _read(self, body: Dict[str, Any], headers: Dict[str, str]) -> Generator[str, None, None]:
        """The pieces, over as many connections as it takes."""
        pieces = self._follow("POST", self._url, headers, json=body)
        tries = 0
        while time.monotonic() < self._ends_by:
            before = self._last_id
            try:
                yield from pieces
                return
            except ChatFailed as error:
                failure = error
            except httpx.RequestError as error:
                if self.id is None:
                    raise
                failure = _cut(error)
            if self._last_id != before:
                tries = 0
            if self.id is None or tries == _TRIES or not self._goes_on_after(failure):
                self._running = False
                raise failure
            self._tell_waiting(True)
            grown = min(self._wait * 2**tries, _LONGEST_WAIT) * random.uniform(0.5, 1.5)
            time.sleep(max(grown / 1000, failure.retry_after or 0))
            tries += 1
            last_id = {"Last-Event-ID": self._last_id} if self._last_id else {}
            pieces = self._follow("GET", self._address(), last_id)

    def _goes_on_after(self, failure: ChatFailed) -> bool:
        asked = 1000 * (failure.retry_after or 0)
        if self._last_id.endswith(_OVER) or asked > _LONGEST_ASKED:
            return False
        if failure.status is not None:
            return failure.status == 429 or failure.status >= 500
        # The latter two may be the words of one worker; another one goes on with the reply.
        return failure.code in ("cut", "shutting_down", "replay_unavailable")

    def _tell_waiting(self, waiting: bool) -> None:
        if self._on_resume is not None and self._waiting is not waiting:
            self._on_resume(waiting)
        self._waiting = waiting

    def _follow(
        self, method: str, url: Union[str, httpx.URL], headers: Dict[str, str], **body: Any
    ) -> Generator[str, None, None]:
        """The pieces that one connection brings, up to the end of the reply."""
        sent = {**self._headers, **headers}
        with self._client.stream(method, url, headers=sent, timeout=TIMEOUT, **body) as response:
            if method == "GET" and response.status_code == 204:
                raise ChatFailed("cut", "The reply is over, and its end did not come", status=204)
            if response.status_code != 200 or _media_type(response) != "text/event-stream":
                raise _refusal(response)
            self.id = self.id or response.headers.get("X-Reply-ID")
            self._running = self.id is not None
            self._tell_waiting(False)
            with contextlib.closing(self._frames(response)) as frames:
                for frame in frames:
                    if time.monotonic() >= self._ends_by:
                        return
                    self._last_id = frame.id or self._last_id
                    if frame.event == "chunk":
                        yield _string(_fields_of(frame.data), "content")
                    elif frame.event == "thought" and self._on_thought is not None:
                        self._on_thought(_string(_fields_of(frame.data), "content"))
                    elif frame.event == "error":
                        raise _failure(_fields_of(frame.data))
                    elif frame.event == "done":
                        self.done = _fields_of(frame.data)
                        self._running = False
                        return
        raise ChatFailed("cut", "The stream ended before the reply did")

    def _frames(self, response: httpx.Response) -> Generator[Frame, None, None]:
        decoder = Decoder(max_frame_bytes=_MOST_BYTES)
        try:
            for read in response.iter_bytes():
                frames = decoder.feed(read)
                self._wait = _WAIT if decoder.retry is None else decoder.retry
                yield from frames
        except FrameTooLarge as error:
            raise ChatFailed("unreadable", f"The stream is none of a chat: {error}") from error
        except httpx.RequestError as error:
            raise _cut(error) from error


def is_key(text: str) -> bool:
    """Whether a key can be this. httpx shows the others in the text of its errors."""
    return text.isascii() and text.isprintable() and " " not in text and text != ""


def _cut(error: httpx.RequestError) -> ChatFailed:
    return ChatFailed("cut", f"The connection broke: {error}")


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
