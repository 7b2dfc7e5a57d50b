"""The keys and tokens that the settings name, for a command that looks at them itself."""

from __future__ import annotations

from typing import List

from ..access import make_credentials
from ..settings import Settings
from .stores import Report


async def check_credentials(settings: Settings) -> List[Report]:
    """What is found of the file of keys, and of the issuer of tokens; nothing if none is named."""
    credentials = make_credentials(settings)
    if credentials is None:
        return []
    try:
        return [Report(*finding) for finding in await credentials.check()]
    finally:
        await credentials.aclose()
