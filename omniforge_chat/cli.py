"""The service's command line: flags over environment over defaults."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Dict, List, Optional

from .app import create_app
from .errors import SettingsError
from .responders import load_responder
from .server import listen, serve, serve_workers
from .settings import Settings, variable

_FLAGS = {
    "host": "where to listen (127.0.0.1)",
    "port": "where to listen; 0 takes a free one (8000)",
    "workers": "how many processes (1)",
    "log_level": "CRITICAL, ERROR, WARNING, INFO or DEBUG (INFO)",
    "log_format": "text for people, json for machines (text)",
    "responder": "placeholder, openai, anthropic, or package.module:attribute (placeholder)",
}


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the service until it is told to stop.

    Returns the exit status: 0 after a stop, 1 where the address cannot be had, 2 for a bad setting.
    """
    # The script does not have the current directory on the path; `python -m` does.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    flags = _parse(arguments)
    try:
        settings = Settings.from_env({**os.environ, **flags})
        _check(settings)
        responder = load_responder(settings.responder, settings)
    except SettingsError as error:
        return _fail(2, str(error))
    try:
        listener = listen(settings.host, settings.port, send_timeout=settings.send_timeout)
    except (OSError, UnicodeError) as error:  # the latter for what is no host name at all
        where = f"{settings.host}:{settings.port}"
        return _fail(1, f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}")
    with listener:
        if settings.workers > 1:
            served = serve_workers(listener, settings)
        else:
            served = serve(create_app(responder, settings=settings), listener, settings)
    return 0 if served else 1


def _parse(arguments: Optional[List[str]]) -> Dict[str, str]:
    """The flags that were given, under the names of the environment variables they stand for."""
    parser = argparse.ArgumentParser(
        prog="omniforge-chat",
        description="A chat endpoint: a message in, a stream of server-sent events out.",
        epilog="Each flag stands for an environment variable; docs/configuration.md has them all.",
    )
    for field, text in _FLAGS.items():
        flag = f"--{field.replace('_', '-')}"
        parser.add_argument(flag, dest=variable(field), metavar=field.upper(), help=text)
    given = vars(parser.parse_args(arguments))
    return {name: value for name, value in given.items() if value is not None}


def _check(settings: Settings) -> None:
    """Raises SettingsError for settings that do not go together in a service."""
    if settings.history == "memory" and settings.workers > 1:
        expected = (
            f"off, or one worker ({variable('workers')}=1): "
            f"each of {settings.workers} would know a part of a conversation"
        )
        raise SettingsError(variable("history"), settings.history, expected)


def _fail(status: int, text: str) -> int:
    print(f"omniforge-chat: {text}", file=sys.stderr)
    return status
