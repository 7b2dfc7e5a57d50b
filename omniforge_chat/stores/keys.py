"""The names of the keys in Redis. What is in braces is the hash tag: all keys of it are together.

| key | holds |
|---|---|
| `r:{<reply>}` | a reply |
| `w:{<worker>}` | the life of a worker, and the name of its channel |
| `c:{<conversation>}:turn` | the claim of a conversation |
| `c:{<conversation>}:log` | its messages |
| `c:{<conversation>}:<other>` | what else belongs to it |
| `i:{<digest>}` | a request that was made with an Idempotency-Key |
| `l:{<digest>}:<part>` | what is counted of a subject of limits |
"""

from __future__ import annotations

import hashlib
from typing import List


class Keys:
    """The keys of one service: all begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._reply = f"{prefix}r:{{"
        self._worker = f"{prefix}w:{{"
        self._conversation = f"{prefix}c:{{"
        self._request = f"{prefix}i:{{"
        self._subject = f"{prefix}l:{{"

    def reply(self, reply_id: str) -> str:
        """The key of a reply."""
        return f"{self._reply}{reply_id}}}"

    def worker(self, worker: str) -> str:
        """The key of a worker's life, and its channel."""
        return f"{self._worker}{worker}}}"

    def conversation(self, conversation_id: str, part: str) -> str:
        """The key of a part of a conversation: `turn`, `log`, or another of yours."""
        # A hash tag ends at the first brace.
        tag = conversation_id.replace("%", "%25").replace("}", "%7D")
        return f"{self._conversation}{tag}}}:{part}"

    def request(self, owner: str, key: str) -> str:
        """The key of a request that `owner` has made with an Idempotency-Key."""
        digest = hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()[:32]
        return f"{self._request}{digest}}}"

    def subject(self, subject: str, *parts: str) -> List[str]:
        """The keys of parts of what is counted of a caller, or of an address."""
        # An id may hold anything, and is nobody's business who sees the keys.
        digest = hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return [f"{self._subject}{digest}}}:{part}" for part in parts]
