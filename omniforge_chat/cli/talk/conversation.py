"""Messages to a chat, and their replies."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, List, Optional, Tuple, Union

import httpx

from ...models import new_conversation_id
from ...reader import Chat, ChatFailed, is_key
from ...responders.providers.address import is_loopback, without_secrets
from .interrupts import Interrupts
from .key import VARIABLE
from .terminal import Terminal, Trouble

_NO_KEY = "a key has visible ASCII characters alone"


class Conversation:
    """The messages to the chat at `url` under one id.

    `key` says who the user is. Raises Trouble for a key that can be none, and if httpx cannot use
    the address, or the proxy or certificates that the environment names.
    """

    def __init__(
        self, url: str, headers: List[Tuple[str, str]], key: Optional[str], terminal: Terminal
    ) -> None:
        self.shown_url = without_secrets(url)
        self._url = url
        self._direct = is_loopback(url)
        self._headers = headers
        self._key = key
        self._terminal = terminal
        self.begin()
        if key is not None and not is_key(key):
            raise Trouble(f"{VARIABLE} or --key-file: {_NO_KEY}")
        try:
            httpx.URL(url)
            self._tls = httpx.create_ssl_context()
            self._client().close()
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            raise Trouble(f"httpx cannot use the address or the environment: {error}") from None

    def begin(self, conversation_id: Optional[str] = None) -> None:
        """Go on under this id, or under a new one."""
        self._id = conversation_id or new_conversation_id()

    def send(
        self, message: str, interrupts: Interrupts, *, regenerate: bool = False
    ) -> Dict[str, Any]:
        """Send a message, and show its reply as it comes. Returns the data of `done`.

        Raises Trouble for a failure, and KeyboardInterrupt for Ctrl-C. Then the reply is stopped:
        the connection is closed, and a service that keeps replies is told. If the service wants a
        key, the user is asked for it, and the message sent again.
        """
        fields: Dict[str, Any] = {"conversation_id": self._id}
        if regenerate:
            fields["regenerate"] = True
        done: Optional[Dict[str, Any]] = None
        while done is None:
            try:
                done = self._reply(message, interrupts, fields)
            except (ChatFailed, httpx.TransportError, UnicodeError) as error:
                raise Trouble(self._explain(error)) from error
        self._terminal.end_line()
        return done

    def _reply(
        self, message: str, interrupts: Interrupts, fields: Dict[str, Any]
    ) -> Optional[Dict[str, Any]]:
        """The data of `done`; None if the service wanted a key, and the user has given one."""
        # A client for each message: nothing of one that was interrupted is left for the next.
        with self._client() as client, self._chat(client, message, fields) as reply:
            try:
                with interrupts:
                    for text in reply:
                        self._terminal.text(text)
            except KeyboardInterrupt:
                # Another Ctrl-C does not wait for the service.
                with contextlib.suppress(KeyboardInterrupt), interrupts:
                    reply.stop()
                raise
            except ChatFailed as error:
                # Once a reply has begun, to send its message again would make a second one.
                began = reply.id is not None
                if error.status != 401 or began or not self._asked_for_key(interrupts):
                    raise
                return None
        return reply.done

    def _asked_for_key(self, interrupts: Interrupts) -> bool:
        """Ask the user for a key, if there is one to ask, and return whether there is a new one.

        A key that was refused is forgotten.
        """
        if not self._terminal.is_dialog:
            return False
        refused, self._key = self._key is not None, None
        self._terminal.note("(The key was refused)" if refused else "(The service wants a key)")
        while self._key is None:
            with interrupts:
                given = self._terminal.ask_secret("Key: ")
            if not given.strip():
                return False
            if is_key(given.strip()):
                self._key = given.strip()
            else:
                self._terminal.note(f"({_NO_KEY})")
        return True

    def _chat(self, client: httpx.Client, message: str, fields: Dict[str, Any]) -> Chat:
        return Chat(
            client,
            self._url,
            message,
            on_thought=self._terminal.thought,
            on_resume=self._tell_resuming,
            key=self._key,
            **fields,
        )

    def _tell_resuming(self, waiting: bool) -> None:
        if waiting:
            self._terminal.aside("(The connection broke; reconnecting)")

    def _client(self) -> httpx.Client:
        # A proxy elsewhere cannot reach this machine.
        return httpx.Client(headers=self._headers, verify=self._tls, trust_env=not self._direct)

    def _explain(self, error: Union[ChatFailed, httpx.TransportError, UnicodeError]) -> str:
        if not isinstance(error, ChatFailed):
            # A UnicodeError is of a name that no resolver takes; httpx lets it through.
            text = f"no answer from {self.shown_url}: {str(error) or type(error).__name__}"
            if self._direct and _was_refused(error):
                text += (
                    "; `omniforge-chat` starts a service, `omniforge-chat talk URL` asks another"
                )
            return text
        text = str(error)
        if error.status in (404, 405) or error.code == str(error.status):
            text += f" (from {self.shown_url})"
        if error.status == 401 and not self._terminal.is_dialog:
            text += f" ({VARIABLE} or --key-file says who you are)"
        if error.retry_after is not None:
            text += f" (try again in {error.retry_after} s)"
        return text


def _was_refused(error: Optional[BaseException]) -> bool:
    """Whether nobody listens at the address."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__context__  # httpcore cuts __cause__
    return error is not None
