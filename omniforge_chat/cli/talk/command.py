"""The command: its arguments, and its exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, List, Optional, Tuple

from ...stdio import open_standard_streams
from .address import chat_url, own_url
from .dialog import Dialog
from .interrupts import INTERRUPTED, Interrupts
from .key import VARIABLE, given_key
from .terminal import Terminal, Trouble

if TYPE_CHECKING:
    from .conversation import Conversation

# A token, and visible ASCII with spaces between (RFC 9110, sections 5.1 and 5.5).
_header = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)[ \t]*"
)


class Options(argparse.Namespace):
    """The arguments."""

    url: Optional[str]
    once: Optional[str]
    conversation_id: Optional[str]
    header: List[Tuple[str, str]]
    key_file: Optional[str]


def run(arguments: List[str]) -> int:
    """Talk to a service.

    Returns the exit status: 0 for a complete reply, or a conversation that the user ended; 1 for a
    failure; 2 for arguments that cannot be used; 130 for Ctrl-C; 141 if nobody reads the reply.
    """
    open_standard_streams()
    terminal, interrupts = Terminal(os.environ), Interrupts()
    try:
        options = _parse(arguments)
        with interrupts.handled():
            return _talk(options, terminal, interrupts)
    except KeyboardInterrupt:
        # It waits for as long as nobody reads; another Ctrl-C ends that.
        with contextlib.suppress(OSError):
            terminal.end_line()
        return INTERRUPTED
    except BrokenPipeError:
        return 141  # as a shell tells of SIGPIPE
    except OSError as error:  # of a standard stream; those of the network are troubles
        print(f"omniforge-chat: cannot read or write: {error.strerror or error}", file=sys.stderr)
        return 1


def _talk(options: Options, terminal: Terminal, interrupts: Interrupts) -> int:
    is_dialog = options.once is None and terminal.is_dialog
    try:
        with interrupts:
            conversation = _conversation(options, terminal)
            message = "" if is_dialog else _message(options.once, terminal)
    except Trouble as trouble:
        terminal.complain(trouble)
        return 2
    try:
        if is_dialog:
            Dialog(conversation, terminal, interrupts).run()
        else:
            conversation.send(message, interrupts)
    except Trouble as trouble:
        terminal.complain(trouble)
        return 1
    return 0


def _conversation(options: Options, terminal: Terminal) -> Conversation:
    """Raises Trouble if there can be none."""
    try:
        module = import_module(".conversation", __package__)
        url = options.url or chat_url(own_url(os.environ))
        key = given_key(options.key_file, os.environ, options.header)
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise Trouble("talk needs httpx: pip install 'omniforge-chat[client]'") from None
    except OSError as error:
        raise Trouble(f"--key-file {options.key_file}: {error.strerror or error}") from None
    except ValueError as error:
        raise Trouble(str(error)) from None
    conversation: Conversation = module.Conversation(url, options.header, key, terminal)
    conversation.begin(options.conversation_id)
    return conversation


def _message(given: Optional[str], terminal: Terminal) -> str:
    """The message of a script: the argument, and standard input below it if it is no terminal.

    Raises Trouble if both are empty.
    """
    parts = [] if given in (None, "-") else [given]
    if not parts or not terminal.is_dialog:
        parts.append(terminal.read_all())
    message = "\n\n".join(part for part in parts if part)
    if not message.strip():
        raise Trouble("there is no message: --once and standard input are empty")
    return message


def _parse(arguments: List[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="omniforge-chat talk",
        description="Talk to a service: hold a conversation, or send one message from a script.",
        epilog="Without --once, standard input that is no terminal is the message. Exit status: "
        "0 for a complete reply, 1 for a failure, 2 for wrong arguments, 130 for Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "url",
        nargs="?",
        type=_url,
        metavar="URL",
        help="address of the service, with its prefix if it has one (http://127.0.0.1:8000, or "
        "the variables HOST and PORT)",
    )
    parser.add_argument(
        "--once",
        type=_text,
        metavar="MESSAGE",
        help="send this, with standard input below it if that is no terminal, and print the "
        "reply; - is standard input alone",
    )
    parser.add_argument(
        "--conversation-id", type=_text, metavar="ID", help="go on with this conversation"
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header_of,
        metavar="'NAME: VALUE'",
        help="send this header, too; may be repeated",
    )
    parser.add_argument(
        "--key-file",
        type=_text,
        metavar="FILE",
        help=f"the file with the key that says who you are (the variable {VARIABLE}, or you are "
        "asked for it)",
    )
    return parser.parse_args(arguments, Options())


def _text(argument: str) -> str:
    return argument.encode("utf-8", "replace").decode()  # it may hold bytes that are none


def _url(text: str) -> str:
    try:
        return chat_url(text)
    except ValueError:
        expected = "expected an address such as http://127.0.0.1:8000"
        raise argparse.ArgumentTypeError(expected) from None


def _header_of(text: str) -> Tuple[str, str]:
    found = _header.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError("expected 'Name: value', in visible ASCII")
    if found[1].lower() in ("content-length", "transfer-encoding"):
        raise argparse.ArgumentTypeError("the length of a request cannot be given")
    return found[1], found[2]
