"""The file of keys: who has one, the hash of each, and what its owner may.

The keys themselves are in no file: each has 256 random bits, so nobody finds one by its hash. For
the same reason a plain SHA-256 is enough; the slow hashes are for passwords, which people choose.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Iterator, Literal, NamedTuple, Optional, Tuple, Union

import msgspec
from msgspec import Meta

from .. import rules

try:
    import fcntl
except ImportError:  # Windows, where two writers are not kept apart
    fcntl = None  # type: ignore[assignment] # mypy takes it for a module

MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read: some 300,000 keys."""

Signature = Tuple[int, ...]
"""A file as the kernel describes it; another one after each change."""

_Count = Union[Annotated[int, Meta(ge=1)], Literal["off"], None]


class Key(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key, by its hash. A limit that is None is that of the settings; "off" is no limit.

    `may` is what its owner is allowed to do, as in `Caller.may`.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@-]{1,64}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    created: Optional[datetime] = None
    may: Tuple[str, ...] = ("chat",)
    rate_limit: Optional[str] = None
    streams: _Count = None
    tokens_per_day: _Count = None

    def __post_init__(self) -> None:
        if self.rate_limit is not None:
            try:
                rate = rules.RATE.read(self.rate_limit)
            except (KeyError, ValueError):
                rate = self.rate_limit
            if not rules.RATE.holds(rate):
                raise ValueError(f"rate_limit is {rules.RATE.expected}")


class _Contents(msgspec.Struct, frozen=True):
    version: Literal[1]
    keys: Tuple[Key, ...]


class KeyFile(NamedTuple):
    """The keys in a file, its signature, and whether everybody on the machine may read it."""

    keys: Tuple[Key, ...]
    signature: Signature
    is_open: bool


_decoder = msgspec.json.Decoder(_Contents)


def new_key() -> str:
    """A key. It begins with `ofk_`, so that programs that look for secrets can find it."""
    return f"ofk_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def signature_of(status: os.stat_result) -> Signature:
    # The inode for a file that was replaced, and the time of the change for new rights.
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_keys(path: str) -> KeyFile:
    """The keys in the file at `path`.

    Raises OSError, and ValueError for a file that holds something else. Its text is for the log: it
    says where the mistake is, and quotes nothing.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        keys = _decoder.decode(data).keys
    except msgspec.DecodeError as error:  # no ValueError in older versions
        raise ValueError(str(error)) from None
    for field in ("name", "sha256"):
        seen = set()
        for number, key in enumerate(keys, 1):
            value = getattr(key, field)
            if value in seen:
                raise ValueError(f"key number {number} has the {field} of another one")
            seen.add(value)
    # Windows has access control lists in place of these bits.
    is_open = os.name != "nt" and bool(status.st_mode & stat.S_IROTH)
    return KeyFile(keys, signature_of(status), is_open)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of the file at `path`, so that nobody else changes it meanwhile.

    A file of its own is locked, as that at `path` is replaced. Raises OSError.
    """
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(f"{os.path.realpath(path)}.lock", flags, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_keys(path: str, keys: Tuple[Key, ...]) -> None:
    """Replace the file at `path`: whoever reads it finds the old keys or the new ones.

    A new file may be read by its owner only. One that is there keeps its owner, its group and
    their rights; others lose theirs. Raises OSError.
    """
    path = os.path.realpath(path)  # the file, and not a link to it
    data = msgspec.json.format(msgspec.json.encode(_Contents(1, keys)), indent=2) + b"\n"
    descriptor, temporary = tempfile.mkstemp(prefix=".keys-", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            _keep_rights(path, file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _keep_rights(path: str, descriptor: int) -> None:
    """Give the new file the owner and rights of the old one: the service must be able to read it.

    Raises PermissionError if it cannot be given away.
    """
    if os.name == "nt":
        return
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return  # `mkstemp` has made it for its owner only
    new = os.fstat(descriptor)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & ~stat.S_IRWXO)
