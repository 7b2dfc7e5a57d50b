"""Limits of callers in a service with several workers, which take a while to start."""

from __future__ import annotations

from pathlib import Path

from ..live.test_caller_limits import answers
from ..support.process import running
from ..support.stores import RedisServer
from ..support.stores.fixtures import one_redis_server

__all__ = ["one_redis_server"]


def test_four_workers_have_one_limit_and_serve_without_their_store(
    tmp_path: Path, one_redis_server: RedisServer
) -> None:
    """The sum of what passes is what the operator wrote, whichever worker gets a connection."""
    variables = {
        "WEB_CONCURRENCY": "4",
        "CHAT_LIMITS": "redis",
        "CHAT_RATE_LIMIT": "30/hour",
        "REDIS_URL": one_redis_server.url,
    }
    with running(tmp_path, **variables) as service:
        assert service.port
        found = answers(service, 100)
        assert [status for status, _ in found].count(200) == 30
        assert [status for status, _ in found].count(429) == 70
        for status, headers in found:
            assert headers["ratelimit-policy"] == '"hour";q=30;w=3600'
            if status == 429:
                assert headers["ratelimit"] == f'"hour";r=0;t={headers["retry-after"]}'
                assert 115 <= int(headers["retry-after"]) <= 120
        one_redis_server.stop()
        assert [status for status, _ in answers(service, 20)] == [200] * 20
        assert service.end() == 0
    assert any("chats are not limited: " in line for line in service.log)
