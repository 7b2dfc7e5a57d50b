"""The names that a service answers to, as it is started."""

from __future__ import annotations

from pathlib import Path

from ..support.answers import last, refusal
from ..support.process import running


def test_a_service_on_the_loopback_answers_to_local_names_alone(tmp_path: Path) -> None:
    """Whoever tries it out is not open to each page that is in the browser."""
    with running(tmp_path) as service, service.connect() as client:
        for host in ("localhost", "127.0.0.1", "[::1]"):
            for name in (host, f"{host}:{service.port}", f"{host.upper()}:1"):
                client.post({"message": "hi"}, headers={"Host": name})
                assert client.head()[0] == 200
                assert last(client.frames())[0] == "done"
        client.post({"message": "hi"}, headers={"Host": f"evil.example:{service.port}"})
        assert refusal(*client.json())[:2] == (421, "host_not_allowed")
        told = service.wait_for("host_not_allowed=1")
        assert "ALLOWED_HOSTS" in told.string
        assert "evil.example" in told.string


def test_a_service_answers_to_the_names_that_it_is_told(tmp_path: Path) -> None:
    """As a proxy on the same machine passes them on."""
    names = {"ALLOWED_HOSTS": "chat.example, *.lan"}
    with running(tmp_path, **names) as service:
        for host, status in (("chat.example", 200), ("a.lan:80", 200), ("localhost", 421)):
            with service.connect() as client:
                client.ask("/health", headers={"X-Forwarded-Host": "localhost"}, host=host)
                assert client.json()[0] == status
