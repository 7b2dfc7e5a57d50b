"""A conversation at a terminal: the prompt, and the commands there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional

from .interrupts import Interrupts
from .terminal import Terminal, Trouble

if TYPE_CHECKING:
    from .conversation import Conversation

_HELP = """\
/new    begin a new conversation
/retry  ask for another reply to the last message
/quit   end, as Ctrl-D does
/help   show this
Ctrl-C stops a reply, or clears the line. Twice at the prompt, it ends.
If your message begins with a slash, put a space before it."""


class Dialog:
    """A conversation at a terminal, until the user ends it."""

    def __init__(
        self, conversation: Conversation, terminal: Terminal, interrupts: Interrupts
    ) -> None:
        self._conversation = conversation
        self._terminal = terminal
        self._interrupts = interrupts
        self._message: Optional[str] = None  # the last one
        self._replies = 0  # the complete ones of this conversation
        self._told = False  # that the service remembers nothing

    def run(self) -> None:
        """Ask for messages, and send them."""
        self._terminal.note(f"Talking to {self._conversation.shown_url} (/help)")
        interrupted = False
        while True:
            try:
                with self._interrupts:
                    line = self._terminal.ask()
            except EOFError:
                break
            except KeyboardInterrupt:
                if interrupted:
                    break
                interrupted = True
                self._terminal.note("\n(Ctrl-C once more ends)")
                continue
            interrupted = False
            if line.rstrip() == "/quit":
                return
            self._obey(line)
        self._terminal.note("\n")

    def _obey(self, line: str) -> None:
        command = line.rstrip()
        if command == "/new":
            self._conversation.begin()
            self._message, self._replies = None, 0
            self._terminal.note("(A new conversation)")
        elif command == "/help":
            self._terminal.note(_HELP)
        elif command == "/retry":
            if self._message is None:
                self._terminal.note("(There is no message yet)")
            else:
                self._send(self._message, regenerate=True)
        elif line.startswith("/"):
            self._terminal.note(f"(There is no command {line.split()[0]}; /help)")
        elif command:
            self._message = line
            self._send(line)

    def _send(self, message: str, *, regenerate: bool = False) -> None:
        try:
            done = self._conversation.send(message, self._interrupts, regenerate=regenerate)
        except KeyboardInterrupt:
            self._terminal.note("(Stopped)")
        except Trouble as trouble:
            self._terminal.complain(trouble)
        else:
            self._tell(done, regenerate)

    def _tell(self, done: Dict[str, Any], regenerated: bool) -> None:
        """Tell what the text of a complete reply does not."""
        if done.get("finish_reason", "stop") != "stop":
            self._terminal.note(f"(The reply ended early: {done['finish_reason']})")
        history = done.get("history")
        if history is None and not self._told:
            self._told = True
            self._terminal.note("(The service remembers nothing: each message stands alone)")
        if history == 0 and self._replies and not regenerated:
            self._terminal.note("(The service has forgotten this conversation)")
        self._replies += not regenerated
