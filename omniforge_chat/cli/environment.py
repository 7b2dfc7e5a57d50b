"""The settings of a command: those in the environment, and in the file that --env-file names."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from typing import Mapping, Optional

from ..access import make_credentials
from ..core.responder import Responder
from ..observe import check_tracing, make_exposition
from ..responders import load_responder
from ..rules import SettingsError
from ..server import check_tls
from ..settings import Settings, variable
from .stores import make_stores

ENV_FILE_HELP = "file with more variables (python-dotenv)"


def read_settings(env_file: Optional[str], flags: Optional[Mapping[str, str]] = None) -> Settings:
    """The settings of the environment, over which `flags` stand, by the names of variables.

    The variables of the file are added to the environment, as `uvicorn --env-file` does. Raises
    SettingsError.
    """
    if env_file is not None:
        _read_env_file(env_file)
    return Settings.from_env({**os.environ, **(flags or {})})


def _read_env_file(path: str) -> None:
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


def check_settings(settings: Settings) -> Responder:
    """The responder of a service with these settings; nothing is opened yet.

    Raises SettingsError if the service would not start.
    """
    for field in ("history", "replay"):
        value = getattr(settings, field)
        if value == "memory" and settings.workers > 1:
            part = {"history": "a part of a conversation", "replay": "the replies of its own alone"}
            expected = (
                f"off, or one worker ({variable('workers')}=1): "
                f"each of {settings.workers} would know {part[field]}"
            )
            raise SettingsError(variable(field), value, expected)
    if settings.uds and not hasattr(socket, "AF_UNIX"):
        raise SettingsError(variable("uds"), settings.uds, "none, as there are no Unix sockets")
    check_tls(settings)
    check_tracing(settings)
    make_credentials(settings)
    make_exposition(settings)
    make_stores(settings)
    return load_responder(settings.responder, settings)


def find_own_modules() -> None:
    """Let modules in the current directory be found: `python -m` does, the script does not."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def told(error: SettingsError) -> str:
    """An error for whoever has set variables: it names the variable in place of the field."""
    if error.name in Settings.__struct_fields__:
        error = SettingsError(variable(error.name), error.value, error.expected)
    return str(error)
