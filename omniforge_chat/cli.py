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
    "host": "address to listen on",
    "port": "port to listen on; 0 takes a free one",
    "workers": "number of processes",
    "log_level": "CRITICAL, ERROR, WARNING, INFO or DEBUG",
    "log_format": "text for people, json for machines",
    "responder": "placeholder, openai, anthropic, or package.module:attribute",
}


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the service until a signal stops it.

    Returns the exit status: 0 after a stop, 1 if it cannot listen on the address, 2 for a bad
    setting.
    """
    # `python -m` has the current directory on the path, the script does not.
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
    except (OSError, UnicodeError) as error:  # the latter if it cannot be a host name
        where = f"{settings.host}:{settings.port}"
        return _fail(1, f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}")
    with listener:
        if settings.workers > 1:
            serve_workers(listener, settings)
        elif not serve(create_app(responder, settings=settings), listener, settings):
            return 1
    return 0


def _parse(arguments: Optional[List[str]]) -> Dict[str, str]:
    """The flags that were given, by the names of their environment variables."""
    parser = argparse.ArgumentParser(
        prog="omniforge-chat",
        description="A chat endpoint: a message in, a stream of server-sent events out.",
        epilog="Each flag overrides an environment variable; docs/configuration.md lists them all.",
    )
    defaults = Settings()
    for field, text in _FLAGS.items():
        flag, text = f"--{field.replace('_', '-')}", f"{text} ({getattr(defaults, field)})"
        parser.add_argument(flag, dest=variable(field), metavar=field.upper(), help=text)
    given = vars(parser.parse_args(arguments))
    return {name: value for name, value in given.items() if value is not None}


def _check(settings: Settings) -> None:
    """Raises SettingsError for settings that a service cannot combine."""
    if settings.history == "memory" and settings.workers > 1:
        expected = (
            f"off, or one worker ({variable('workers')}=1): "
            f"each of {settings.workers} would know a part of a conversation"
        )
        raise SettingsError(variable("history"), settings.history, expected)


def _fail(status: int, text: str) -> int:
    print(f"omniforge-chat: {text}", file=sys.stderr)
    return status
