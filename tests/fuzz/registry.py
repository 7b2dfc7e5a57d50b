"""All targets, by their names."""

from __future__ import annotations

from typing import Dict

from . import connections, operators, providers, requests, streams
from .target import Target

TARGETS: Dict[str, Target] = {
    target.name: target
    for module in (streams, requests, connections, providers, operators)
    for target in module.TARGETS
}
