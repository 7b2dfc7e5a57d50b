"""The clients that ask again by themselves, used as docs/protocol.md shows it."""

from __future__ import annotations

from ..support.docs import DOCS, blocks
from .clients import CLIENTS, TIMERS, WINDOW

DOCUMENTED = {
    "fetch-event-source": """
    const show = (text) => told.push(["chunk", text]);
    try {
      %s
      told.push(["done", ""]);
    } catch (error) {
      failed(error);
    }
    """,
    "eventsource": """
    const show = (text) => told.push(["chunk", text]);
    const finish = () => told.push(["done", ""]);
    const fail = failed;
    %s
    """,
}
"""The names that the examples do not define."""


def documented(client: str) -> str:
    """A program that does what the example does, for `run_javascript`."""
    name = CLIENTS[client].subject().name
    [example] = [code for code in blocks(DOCS / "protocol.md", "js") if f'from "{name}"' in code]
    imported, example = example.split("\n", 1)
    for shown, actual in (
        ('"/api/v1/chat"', "url"),
        ('JSON.stringify({ message: "Hello" })', "body"),
    ):
        assert shown in example
        example = example.replace(shown, actual)
    return f"{imported}\n{WINDOW}{TIMERS}{DOCUMENTED[client] % example}"
