"""What `/metrics` tells of the requests to a provider."""

from __future__ import annotations

import asyncio

from omniforge_chat import Settings, create_app

from ..support.app import HandDrivenRequest
from ..support.metrics import Scrape
from ..support.provider import Provider, refusing
from ..support.wires import Wire


def test_each_try_is_counted_and_the_reply_has_the_tokens_of_the_provider(wire: Wire) -> None:
    """A provider that fails now and then is seen before its clients see it."""

    async def main(provider: Provider) -> Scrape:
        responder = wire.make(provider, model="m-1")
        app = create_app(responder, settings=Settings(metrics="on"))
        await HandDrivenRequest().run(app)
        asked = HandDrivenRequest(b"", method="GET", path="/metrics")
        await asked.run(app)
        await app.aclose()
        return Scrape(asked.body.decode())

    with Provider(refusing(503), wire.answer("one", "two")) as provider:
        scrape = asyncio.run(main(provider))
    attempts = "omniforge_upstream_attempts_total"
    assert scrape(attempts, provider=wire.name) == 2
    assert scrape(attempts, provider=wire.name, result="done") == 1
    assert scrape(attempts, provider=wire.name, result="upstream_error") == 1
    name = "gen_ai_client_inference"
    assert scrape(f"{name}_duration_seconds_count", error_type="upstream_error") == 1
    assert scrape(f"{name}_time_to_first_chunk_seconds_count") == 1
    assert scrape(f"{name}_usage_input_tokens_total") == 7
    assert scrape(f"{name}_usage_output_tokens_total") == 5
    assert scrape("omniforge_tokens_total", kind="prompt", estimated="false") == 7
    assert scrape("omniforge_chats_total", outcome="done") == 1
