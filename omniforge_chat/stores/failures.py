"""The ways in which Redis fails.

StoreFailure
├── StoreUnavailable   the server is out of reach, or refuses everybody
└── StoreUnreadable    one key holds something else than it should

The text of a StoreUnavailable is for the log: it says what is wrong, and what to do. It is never
sent to a client. No password is in it.
"""

from __future__ import annotations

import re
from typing import Any, List, Sequence, Tuple


class StoreFailure(Exception):
    """Redis did not do what it was asked."""


class StoreUnavailable(StoreFailure):
    """The server is out of reach, or refuses what everybody needs.

    `kind` is the same for failures of the same sort. `in_doubt` says whether a command may have
    run nevertheless: it was sent and there is no answer, or another one of them was refused.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text
        self.in_doubt = False

    def __str__(self) -> str:
        return self.text


class StoreUnreadable(StoreFailure):
    """A command failed because of what its keys hold. No other command feels it."""


_PLEASE = {
    "OOM": "it is full; raise its maxmemory, or let keys live for a shorter time",
    "READONLY": "it is a replica, which takes no writes; REDIS_URL must name the primary",
    "NOAUTH": "it wants a password; write it into REDIS_URL, as in redis://:PASSWORD@HOST",
    "WRONGPASS": "it refuses the user name or the password in REDIS_URL",
    "NOPERM": (
        "the user in REDIS_URL has too few rights; give it +@all -@dangerous +info, and the keys "
        "~{prefix}* and channels &{prefix}*"
    ),
    "LOADING": "it is still loading its data; wait",
    "MASTERDOWN": "it is a replica that has lost its primary; REDIS_URL must name the primary",
    "MISCONF": "it cannot write to its disk; its own log has the reason",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write; start them",
    "BUSY": "a script of another program blocks it; see SCRIPT KILL",
    "MOVED": "it is a cluster, which is not supported; REDIS_URL must name a single server",
    "UNKNOWN": "it does not know a command that is needed: redis 7.0, valkey 7.2 or newer is",
    "CLIENTS": "it has too many clients; raise its maxclients",
    "TIMEOUT": (
        "it does not answer; see whether it is overloaded or paused, and whether REDIS_URL is right"
    ),
    "UNREACHABLE": "it cannot be reached; start it, or correct REDIS_URL",
    "CONNECT": "it refuses the connection; correct REDIS_URL",
    "PROTOCOL": "what answers there is no Redis; correct REDIS_URL",
}

_OF_CLASS = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "NoPermissionError": "NOPERM",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "AskError": "MOVED",
    "MovedError": "MOVED",
    "ClusterDownError": "MOVED",
    "ClusterCrossSlotError": "MOVED",
    "TryAgainError": "MOVED",
    "MaxClientsError": "CLIENTS",
    "InvalidResponse": "PROTOCOL",
    "TimeoutError": "TIMEOUT",
    "AuthenticationError": "WRONGPASS",
    "ConnectionError": "UNREACHABLE",
    "OSError": "UNREACHABLE",
}
"""Kinds by redis-py's class, if it has one."""

# redis-py takes the code off the texts of those that it knows.
_OF_TEXT = (
    ("Authentication required", "NOAUTH"),
    ("max number of clients", "CLIENTS"),
    ("The user executing the script can't", "NOPERM"),
    ("ACL failure in script", "NOPERM"),
    ("unknown command", "UNKNOWN"),
    ("unknown subcommand", "UNKNOWN"),
    ("syntax error", "UNKNOWN"),
    ("AUTH <password> called without any password", "WRONGPASS"),
    ("DENIED", "NOAUTH"),
    ("LOADING", "LOADING"),
    ("MASTERDOWN", "MASTERDOWN"),
    *((code, "MOVED") for code in ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "CROSSSLOT")),
    ("MISCONF", "MISCONF"),
    ("NOREPLICAS", "NOREPLICAS"),
    ("BUSY ", "BUSY"),
)


def unavailable(kind: str, detail: str = "", *, prefix: str = "") -> StoreUnavailable:
    """The failure of this kind: its sentence, and `detail`, which are the server's own words."""
    text = _PLEASE[kind].replace("{prefix}", prefix)
    return StoreUnavailable(kind, f"{text} ({detail})" if detail else text)


def demanded(answers: Sequence[Any]) -> List[Any]:
    """`answers` to commands that hold for any server. Raises StoreUnavailable if one failed."""
    for answer in answers:
        if isinstance(answer, StoreUnreadable):
            raise unavailable("UNKNOWN", str(answer))
    return [*answers]


def failure_of(error: BaseException, prefix: str) -> StoreFailure:
    """The meaning of an exception of redis-py's."""
    if isinstance(error, StoreFailure):
        return error
    if error.__cause__ is not None and "AuthenticationError" in _classes(error.__cause__):
        error = error.__cause__  # of a Unix socket, where it is wrapped
    text = _shortened(str(error))
    for beginning, kind in _OF_TEXT:
        if text.startswith(beginning):
            return unavailable(kind, text, prefix=prefix)
    for name in _classes(error):
        if name in _OF_CLASS:
            return unavailable(_OF_CLASS[name], text, prefix=prefix)
    return StoreUnreadable(text)


def _classes(error: BaseException) -> Tuple[str, ...]:
    return tuple(each.__name__ for each in type(error).__mro__)


def _shortened(text: str) -> str:
    """The server's words in one line, without the place in the script that a script adds."""
    text = re.sub(r"\s*script: (\S+, )?on @user_script:\d+\.?", "", text)
    return " ".join(text.split())[:200].rstrip(".")
