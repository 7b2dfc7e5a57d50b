"""`omniforge-chat conversations`: shows or deletes a stored conversation, without a service."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import re
import sys
from typing import List, Optional, Sequence

import msgspec

from ..conversations import StoredConversations
from ..errors import ConversationNotFound, HistoryUnavailable, ReplayUnavailable
from ..http import conversation_document, delete_conversation
from ..logs import logger
from ..models import StoredMessage
from ..replay import Replay
from ..rules import SettingsError, is_identifier
from ..settings import Settings, variable
from ..stdio import open_standard_streams
from .environment import ENV_FILE_HELP, read_settings, told
from .printable import complain, printable
from .stores import make_stores, missing_file, open_stores

_ELSEWHERE = {
    "off": "no conversation is stored",
    "memory": "conversations are in the memory of the one process that serves; only that can be "
    "asked, by GET or DELETE /api/v1/conversations/ID",
}
"""The settings with which this process finds none of the conversations of a service."""


class Options(argparse.Namespace):
    """The arguments."""

    command: str
    conversation_id: str
    owner: str
    env_file: Optional[str]
    json: bool


class _Complaints(logging.Handler):
    """Shows the errors in the log as the command's own: they say what is wrong with a store."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.any = False

    def emit(self, record: logging.LogRecord) -> None:
        self.any = True
        complain(record.getMessage())


def run(arguments: List[str]) -> int:
    """Show or delete a conversation.

    Returns the exit status: 0; 1 if there is no such conversation, or its store does not answer; 2
    for arguments or settings that cannot be used; 141 if nobody reads the output.
    """
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = _parse(arguments)
    try:
        settings = read_settings(options.env_file)
        make_stores(settings)
    except SettingsError as error:
        complain(told(error))
        return 2
    if settings.history in _ELSEWHERE:
        complain(f"{variable('history')}={settings.history}: {_ELSEWHERE[settings.history]}")
        return 2
    if missing_file(settings):
        complain(f"there is no file {missing_file(settings)}")
        return 1
    complaints = _Complaints()
    logger.addHandler(complaints)
    try:
        asyncio.run((_show if options.command == "show" else _delete)(settings, options))
        sys.stdout.flush()
    except ConversationNotFound as error:
        complain(f"{options.conversation_id}: {error.message}")
        return 1
    except (HistoryUnavailable, ReplayUnavailable) as error:
        if not complaints.any:
            complain(error.message)
        return 1
    except BrokenPipeError:
        return 141  # as a shell tells of SIGPIPE
    except OSError as error:
        complain(f"cannot write: {error.strerror or error}")
        return 1
    finally:
        logger.removeHandler(complaints)
    return 0


async def _show(settings: Settings, options: Options) -> None:
    async with open_stores(settings) as stores:
        assert isinstance(stores.history, StoredConversations)
        messages = await stores.history.read(options.conversation_id, options.owner)
    if options.json:
        _write_json(conversation_document(options.conversation_id, messages))
    else:
        print("\n\n".join(map(_written, messages)))


def _written(message: StoredMessage) -> str:
    """A message for people. Its text is indented, so that it can imitate no other message."""
    cut = "" if message.complete else ", cut"
    lines = printable(message.content).split("\n")
    head = f"{printable(message.role)}, {message.time:%Y-%m-%d %H:%M:%S} UTC{cut}"
    return "\n".join([head, *(f"    {line}".rstrip() for line in lines)])


def _write_json(document: object) -> None:
    """The document as the service sends it; what a terminal would obey is escaped."""
    text = msgspec.json.encode(document).decode()
    text = re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode() + b"\n")


async def _delete(settings: Settings, options: Options) -> None:
    whose = (options.conversation_id, options.owner)
    async with open_stores(settings) as stores:
        assert isinstance(stores.history, StoredConversations)
        replay = None if settings.replay == "memory" else stores.replay
        deleted = await _found(stores.history, replay, *whose)
        await delete_conversation(stores.history, replay, *whose)
    print(f"{options.conversation_id}: deleted {deleted}")
    if settings.replay == "memory":
        complain(
            f"{variable('replay')}=memory: what the service keeps of this conversation's replies "
            f"goes {settings.replay_keep:g} s after their end"
        )


async def _found(
    history: StoredConversations, replay: Optional[Replay], conversation_id: str, owner: str
) -> str:
    """What there is to delete, in words."""
    messages: Sequence[StoredMessage] = ()
    words = []
    try:
        messages = await history.read(conversation_id, owner)
    except ConversationNotFound:
        pass  # perhaps its first turn is running, or its replies are left
    except HistoryUnavailable:
        words.append("what could not be read")  # if it is out of reach, deleting fails as well
    if messages:
        words.append(f"{len(messages)} message{'s' if len(messages) > 1 else ''}")
    if replay is not None and await replay.newest(conversation_id, owner) is not None:
        words.append("the replies that were kept")
    return " and ".join(words) or "a turn that was running"


def _parse(arguments: List[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="omniforge-chat conversations",
        description="Show or delete a conversation in the store that the settings of a service "
        "name. The service need not run.",
        epilog="Exit status: 0 if it worked, 1 if there is no such conversation or its store does "
        "not answer, 2 for wrong arguments or settings.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="show|delete")
    for name, text in (
        ("show", "print its messages, oldest first"),
        ("delete", "delete its messages, its running turn, and its replies that are kept in Redis"),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("conversation_id", metavar="ID", type=_conversation_id)
        command.add_argument(
            "--owner",
            default="",
            type=_owner,
            help="whose conversation it is, if your app tells the chat who asks",
        )
        command.add_argument("--env-file", metavar="FILE", help=ENV_FILE_HELP)
        if name == "show":
            command.add_argument(
                "--json",
                action="store_true",
                help="print the JSON that GET /api/v1/conversations/ID answers",
            )
    return parser.parse_args(arguments, Options())


def _conversation_id(text: str) -> str:
    if not is_identifier(text):
        raise argparse.ArgumentTypeError("expected 1 to 128 visible ASCII characters")
    return text


def _owner(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("expected text") from None
    return text
