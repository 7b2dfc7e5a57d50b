"""A reader of the stream in Python.

    python reader.py http://127.0.0.1:8000/api/v1/chat "Hello"

It needs httpx, and omniforge-chat for the decoder of server-sent events.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, Iterator

import httpx

from omniforge_chat.core.sse import Decoder

# A heartbeat comes every 15 seconds. If nothing comes for longer, the connection is dead.
TIMEOUT = httpx.Timeout(10.0, read=45.0)


class ChatFailed(Exception):
    """The chat was refused, failed on its way or was cut; `code` tells which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def chat(client: httpx.Client, url: str, message: str, **fields: str) -> Iterator[str]:
    """The pieces of the reply, as they come.

    `fields` are further fields of the request, such as `conversation_id`. Raises ChatFailed unless
    the reply is complete, and httpx.TransportError if there is no connection. To stop a reply,
    close this generator.
    """
    body: Dict[str, str] = {"message": message, **fields}
    with client.stream("POST", url, json=body, timeout=TIMEOUT) as response:
        if response.status_code != 200:
            response.read()
            raise refusal(response)
        decoder = Decoder()
        try:
            for data in response.iter_bytes():
                for frame in decoder.feed(data):
                    content = json.loads(frame.data)
                    if frame.event == "chunk":
                        yield content["content"]
                    elif frame.event == "done":
                        return
                    elif frame.event == "error":
                        raise failure(content)
        except httpx.TransportError as error:
            raise ChatFailed("cut", str(error)) from error
    raise ChatFailed("cut", "The stream ended before the reply did")


def refusal(response: httpx.Response) -> ChatFailed:
    try:
        return failure(response.json())
    except (ValueError, KeyError, TypeError):  # a proxy's page, say
        return ChatFailed(str(response.status_code), response.reason_phrase)


def failure(error: Dict[str, Any]) -> ChatFailed:
    return ChatFailed(error["code"], error["message"])


def main() -> None:
    url, message = sys.argv[1:]
    with httpx.Client() as client:
        try:
            for piece in chat(client, url, message):
                print(piece, end="", flush=True)
        except ChatFailed as error:
            sys.exit(str(error))
    print()


if __name__ == "__main__":
    main()
