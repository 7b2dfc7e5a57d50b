"""`omniforge-chat keys`: adds, lists and removes API keys, while a service uses them."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from ..access import Key, hash_of, locked, new_key, read_keys, write_keys
from ..rules import AT_LEAST_ONE, RATE, Rule, SettingsError, is_key_name
from ..settings import variable
from ..stdio import open_standard_streams
from .environment import ENV_FILE_HELP, read_settings, told
from .printable import complain, printable

COLUMNS = ("NAME", "CREATED", "MAY", "RATE", "STREAMS", "TOKENS/DAY")


class Options(argparse.Namespace):
    """The arguments."""

    command: str
    name: str
    file: Optional[str]
    env_file: Optional[str]
    may: Optional[List[str]]
    rate_limit: Optional[str]
    streams: Union[int, str, None]
    tokens_per_day: Union[int, str, None]


class _Refused(Exception):
    """The file is not as the command needs it."""


def run(arguments: List[str]) -> int:
    """Add, list or remove keys.

    Returns the exit status: 0; 1 if there is no such key or already one, or the file cannot be
    used; 2 for arguments or settings that cannot be used; 141 if nobody reads the output.
    """
    open_standard_streams()
    options = _parse(arguments)
    try:
        path = options.file or read_settings(options.env_file).api_keys_file
    except SettingsError as error:
        return _fail(2, told(error))
    if not path:
        return _fail(2, f"no file is named: use --file, or set {variable('api_keys_file')}")
    try:
        _COMMANDS[options.command](path, options)
        sys.stdout.flush()
    except _Refused as error:
        return _fail(1, f"{path}: {error}")
    except ValueError as error:
        return _fail(1, f"{path}: this is no file of keys: {error}")
    except BrokenPipeError:
        return 141  # as a shell tells of SIGPIPE
    except OSError as error:
        return _fail(1, f"{error.filename or path}: {error.strerror or error}")
    return 0


def _add(path: str, options: Options) -> None:
    with locked(path):
        keys = _existing(path)
        if any(key.name == options.name for key in keys):
            raise _Refused(f"{options.name} has a key; remove it before you add another one")
        secret = new_key()
        key = Key(
            options.name,
            hash_of(secret),
            datetime.now(timezone.utc).replace(microsecond=0),
            tuple(dict.fromkeys(options.may or ("chat",))),
            options.rate_limit,
            options.streams,  # type: ignore[arg-type] # the parser has made it a number, or off
            options.tokens_per_day,  # type: ignore[arg-type] # likewise
        )
        # First, so that no key is in the file that nobody has seen.
        print(secret, flush=True)
        write_keys(path, (*keys, key))


def _existing(path: str) -> Tuple[Key, ...]:
    try:
        return read_keys(path).keys
    except FileNotFoundError:
        return ()


def _remove(path: str, options: Options) -> None:
    with locked(path):
        keys = read_keys(path).keys
        left = tuple(key for key in keys if key.name != options.name)
        if len(left) == len(keys):
            raise _Refused(f"{options.name} has no key")
        write_keys(path, left)


def _list(path: str, options: Options) -> None:
    table = [COLUMNS, *map(_row, read_keys(path).keys)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _row(key: Key) -> Tuple[str, ...]:
    created = f"{key.created:%Y-%m-%d %H:%M}" if key.created is not None else "-"
    limits = (key.rate_limit, key.streams, key.tokens_per_day)
    cells = (created, ",".join(key.may), *("-" if each is None else str(each) for each in limits))
    return (key.name, *map(printable, cells))


_COMMANDS: Dict[str, Callable[[str, Options], None]] = {
    "add": _add,
    "list": _list,
    "remove": _remove,
}


def _fail(status: int, text: str) -> int:
    complain(text)
    return status


def _parse(arguments: List[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="omniforge-chat keys",
        description="Add, list or remove the keys with which callers of a service say who they "
        "are. A service that runs takes the change over by itself.",
        epilog="Exit status: 0 if it worked, 1 if there is no such key, if there is one already, "
        "or if the file cannot be used, 2 for wrong arguments or settings.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="add|list|remove")
    for name, text in (
        ("add", "make a key and print it, this once; the file has only its hash"),
        ("list", "print the names and limits of all keys; - is a limit of the settings"),
        ("remove", "remove a key: it opens nothing from now on"),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name != "list":
            command.add_argument("name", metavar="NAME", type=_name, help="whose key it is")
        if name == "add":
            _add_limits(command)
        command.add_argument(
            "--file", metavar="FILE", help=f"file of the keys; else {variable('api_keys_file')}"
        )
        command.add_argument("--env-file", metavar="FILE", help=ENV_FILE_HELP)
    return parser.parse_args(arguments, Options())


def _add_limits(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--may",
        choices=("chat", "metrics"),
        action="append",
        help="what its owner may do, chat if nothing is said; may be given twice",
    )
    limits = (
        ("--rate-limit", "RATE", _rate, "chats per time, such as 60/minute"),
        ("--streams", "N", _count, "chats that are answered at once"),
        ("--tokens-per-day", "N", _count, "tokens in a day, of prompts and replies"),
    )
    for flag, metavar, kind, text in limits:
        text = f"{text}; off for no limit, else that of the settings"
        command.add_argument(flag, metavar=metavar, type=kind, help=text)


def _name(text: str) -> str:
    if not is_key_name(text):
        raise argparse.ArgumentTypeError("expected 1 to 64 of A-Z, a-z, 0-9, . _ @ and -")
    return text


def _rate(text: str) -> str:
    return str(_read(RATE, text) or "off")


def _count(text: str) -> Union[int, str]:
    if text.lower() == "off":
        return "off"
    count: int = _read(AT_LEAST_ONE, text)
    return count


def _read(rule: Rule, text: str) -> Any:
    try:
        value = rule.read(text)
    except (KeyError, ValueError):
        value = text
    if not rule.holds(value):
        raise argparse.ArgumentTypeError(f"expected {rule.expected}")
    return value
