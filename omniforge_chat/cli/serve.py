"""The service: flags over environment over defaults, and then it serves."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import sys
from typing import List, Optional

from ..app import create_app
from ..responders import descriptors_per_stream, load_responder
from ..rules import SettingsError
from ..server import (
    check_tls,
    configure_log,
    fit_streams,
    open_listener,
    raise_descriptor_limit,
    serve,
    serve_reloading,
    serve_workers,
)
from ..settings import Settings, variable
from ..stdio import open_standard_streams
from .flags import Options, parse


def run(arguments: List[str]) -> int:
    """Serve until a signal stops it.

    Returns the exit status: 0 after a stop, 1 if it cannot listen on the address, 2 for a bad
    setting.
    """
    open_standard_streams()
    raise_descriptor_limit()
    # `python -m` has the current directory on the path, the script does not.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    flags, options = parse(arguments)
    try:
        _read_env_file(options.env_file)
        settings = Settings.from_env({**os.environ, **flags})
        _check(settings, options)
        responder = load_responder(settings.responder, settings)
    except SettingsError as error:
        return _fail(2, str(error))
    if options.check:
        print(_summary(settings, options))
        return 0
    try:
        listener = open_listener(settings, options.fd)
    except (OSError, UnicodeError) as error:  # the latter if it cannot be a host name
        return _fail(1, _cannot_listen(error, settings, options, variable("host") in flags))
    with listener:
        configure_log(settings)
        try:
            settings = fit_streams(settings, listener, descriptors_per_stream(settings.responder))
        except OSError as error:
            return _fail(1, str(error))
        settings = settings.listening_on(listener.getsockname())
        if options.reload:
            serve_reloading(listener, settings)
        elif settings.workers > 1:
            serve_workers(listener, settings)
        elif not serve(create_app(responder, settings=settings), listener, settings):
            return 1
    return 0


def _read_env_file(path: Optional[str]) -> None:
    """Add the variables of a file to the environment, as `uvicorn --env-file` does.

    Raises SettingsError.
    """
    if path is None:
        return
    try:
        dotenv = importlib.import_module("dotenv")
    except ModuleNotFoundError:
        raise SettingsError(
            "--env-file", path, "python-dotenv: pip install python-dotenv"
        ) from None
    try:
        with open(path, encoding="utf-8") as file:
            dotenv.load_dotenv(stream=file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError("--env-file", path, f"a file that can be read: {reason}") from None


def _check(settings: Settings, options: Options) -> None:
    """Raises SettingsError for settings that a service cannot combine."""
    several = settings.workers > 1
    if settings.history == "memory" and several:
        expected = (
            f"off, or one worker ({variable('workers')}=1): "
            f"each of {settings.workers} would know a part of a conversation"
        )
        raise SettingsError(variable("history"), settings.history, expected)
    if options.reload and several:
        raise SettingsError(variable("workers"), settings.workers, "1, for --reload")
    if options.fd is not None and settings.uds:
        raise SettingsError(variable("uds"), settings.uds, "none, as --fd is given")
    if settings.uds and not hasattr(socket, "AF_UNIX"):
        raise SettingsError(variable("uds"), settings.uds, "none, as there are no Unix sockets")
    check_tls(settings)


def _where(settings: Settings, options: Options) -> str:
    if options.fd is not None:
        return f"the descriptor {options.fd}"
    return settings.uds or f"{settings.host}:{settings.port}"


def _cannot_listen(
    error: Exception, settings: Settings, options: Options, host_is_flag: bool
) -> str:
    reason = getattr(error, "strerror", None) or error
    text = f"cannot listen on {_where(settings, options)}: {reason}"
    about_host = isinstance(error, (socket.gaierror, UnicodeError)) or (
        getattr(error, "errno", None) == errno.EADDRNOTAVAIL
    )
    if about_host and not host_is_flag:
        name = variable("host")
        text += (
            f" (the variable {name}, which conda and some shells set, too: unset it, or use --host)"
        )
    return text


def _summary(settings: Settings, options: Options) -> str:
    """What would be served, and the settings that are not the default."""
    count = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
    where = _where(settings, options)
    lines = [f"omniforge-chat: would serve {settings.responder} on {where} with {count}"]
    defaults = Settings.from_env({})
    for field in settings.__struct_fields__:
        value = getattr(settings, field)
        if value != getattr(defaults, field):
            shown = "***" if field == "ssl_keyfile_password" else _written(value)
            lines.append(f"  {variable(field)}={shown}")
    return "\n".join(lines)


def _written(value: object) -> str:
    """A value as its variable has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _fail(status: int, text: str) -> int:
    print(f"omniforge-chat: {text}", file=sys.stderr)
    return status
