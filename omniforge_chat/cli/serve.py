"""The service: flags over environment over defaults, and then it serves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from typing import Dict, List, Optional

from ..access import make_credentials
from ..app import create_app
from ..core.responder import Responder
from ..logs import logger
from ..responders import descriptors_per_stream
from ..rules import SettingsError, masked
from ..server import (
    configure_log,
    fit_streams,
    open_listener,
    open_metrics_listener,
    raise_descriptor_limit,
    serve,
    serve_reloading,
    serve_workers,
)
from ..settings import Settings, is_reachable, is_secret, variable
from ..stdio import open_standard_streams
from .credentials import check_credentials
from .environment import check_settings, find_own_modules, read_settings, told
from .flags import Options, parse
from .stores import check_stores, counts_apart, limits_of


def run(arguments: List[str]) -> int:
    """Serve until a signal stops it.

    Returns the exit status: 0 after a stop, 1 if it cannot listen on the address, 2 for a bad
    setting.
    """
    open_standard_streams()
    raise_descriptor_limit()
    find_own_modules()
    flags, options = parse(arguments)
    try:
        settings = read_settings(options.env_file, flags)
        _check(settings, options)
        responder = check_settings(settings)
    except SettingsError as error:
        return _fail(2, told(error))
    if options.check:
        print(_summary(settings, options))
        return 0
    try:
        listener = open_listener(settings, options.fd)
    except (OSError, UnicodeError) as error:  # the latter if it cannot be a host name
        return _fail(1, _cannot_listen(error, settings, options, variable("host") in flags))
    with contextlib.ExitStack() as sockets:
        sockets.enter_context(listener)
        try:
            metrics = open_metrics_listener(settings)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            name = variable("metrics")
            return _fail(1, f"cannot listen on {settings.metrics} ({name}): {reason}")
        if metrics is not None:
            sockets.enter_context(metrics)
        configure_log(settings)
        try:
            settings = fit_streams(settings, listener, descriptors_per_stream(settings.responder))
        except OSError as error:
            return _fail(1, str(error))
        _warn_if_open(settings, listener.getsockname())
        settings = settings.listening_on(listener.getsockname())
        _warn_of_stores(settings)
        _warn_of_credentials(settings)
        return _serve(listener, settings, responder, metrics, reloads=options.reload)


def _serve(
    listener: socket.socket,
    settings: Settings,
    responder: Responder,
    metrics: Optional[socket.socket],
    *,
    reloads: bool,
) -> int:
    try:
        if reloads:
            serve_reloading(listener, settings, metrics)
        elif settings.workers > 1:
            serve_workers(listener, settings, metrics)
        elif not serve(create_app(responder, settings=settings), listener, settings, metrics):
            return 1
    except SettingsError as error:
        return _fail(2, told(error))
    return 0


def _check(settings: Settings, options: Options) -> None:
    """Raises SettingsError for settings that these options exclude."""
    if options.reload and settings.workers > 1:
        raise SettingsError(variable("workers"), settings.workers, "1, for --reload")
    if options.fd is not None and settings.uds:
        raise SettingsError(variable("uds"), settings.uds, "none, as --fd is given")


def _warn_if_open(settings: Settings, address: object) -> None:
    """Log it if machines can reach the service, and nobody is asked who they are."""
    if is_reachable(address) and make_credentials(settings) is None:
        logger.warning(
            "whoever reaches %s may chat: set %s or %s to ask for keys or tokens",
            *(settings.host, variable("api_keys_file"), variable("jwt_issuer")),
        )


def _warn_of_stores(settings: Settings) -> None:
    """Log the stores that are out of reach, or not what their limits need.

    The service runs without them until they are back.
    """
    if counts_apart(settings):
        logger.warning("limits %s", counts_apart(settings))
    if {settings.history, settings.replay, limits_of(settings)} <= {"off", "memory"}:
        return
    # `asyncio.run` would leave Python 3.9 without the loop that a responder may ask for later.
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        reports = loop.run_until_complete(check_stores(settings, makes_file=True))
    failed: Dict[str, List[str]] = {}
    for report in reports:
        if report.state == "failed":
            failed.setdefault(report.text, []).append(report.part)
    for text, names in failed.items():
        logger.warning("%s %s", " and ".join(names), text)


def _warn_of_credentials(settings: Settings) -> None:
    """Log what is wrong with keys and tokens; the service refuses whom it does not know."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:  # as above
        reports = loop.run_until_complete(check_credentials(settings))
    for report in reports:
        if report.state != "ok":
            logger.warning("%s: %s", report.part, report.text)


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
            written = "***" if is_secret(field) else masked(_written(value))
            lines.append(f"  {variable(field)}={written}")
    return "\n".join(lines)


def _written(value: object) -> str:
    """A value as its variable has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "off"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _fail(status: int, text: str) -> int:
    print(f"omniforge-chat: {text}", file=sys.stderr)
    return status
