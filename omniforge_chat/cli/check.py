"""`omniforge-chat check`: the settings of a service, and what is where they say its stores are."""

from __future__ import annotations

import argparse
import asyncio
from typing import List, Optional

from ..rules import SettingsError
from ..settings import Settings
from ..stdio import open_standard_streams
from .credentials import check_credentials
from .environment import ENV_FILE_HELP, check_settings, find_own_modules, read_settings, told
from .printable import printable
from .stores import Report, check_stores


class Options(argparse.Namespace):
    """The arguments."""

    env_file: Optional[str]


def run(arguments: List[str]) -> int:
    """Check the settings, reach each store, and print a line for each.

    Returns the exit status: 0 if all is well, 1 if not, 2 for arguments that cannot be used.
    """
    open_standard_streams()
    find_own_modules()
    options = _parse(arguments)
    try:
        settings = read_settings(options.env_file)
        check_settings(settings)
    except SettingsError as error:
        reports = [Report("failed", "settings", told(error))]
    else:
        reports = [Report("ok", "settings", _summary(settings)), *asyncio.run(_found(settings))]
    for report in reports:
        line = f"{report.state:<8} {report.part:<9} {report.text}"
        print(" ".join(printable(line).splitlines()).rstrip())
    return 0 if all(report.state in ("ok", "off") for report in reports) else 1


async def _found(settings: Settings) -> List[Report]:
    stores = await check_stores(settings, makes_file=False)
    return [*stores, *await check_credentials(settings)]


def _summary(settings: Settings) -> str:
    count = f"{settings.workers} worker{'s' if settings.workers > 1 else ''}"
    return f"{count}, responder {settings.responder}"


def _parse(arguments: List[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="omniforge-chat check",
        description="Check the settings of a service as it would read them here, reach each of its "
        "stores, and say what is there.",
        epilog="Exit status: 0 if all is well, 1 if not, which a warning is, too; 2 for arguments "
        "that cannot be used.",
        allow_abbrev=False,
    )
    parser.add_argument("--env-file", metavar="FILE", help=ENV_FILE_HELP)
    return parser.parse_args(arguments, Options())
