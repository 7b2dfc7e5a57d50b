"""The packages of the providers, fed with the bytes of every variant: do they read what we read?

A variant in which they make something else of it says why (`=> package: ...`).
"""

from __future__ import annotations

import sys
from typing import Any, Iterator, Tuple

import pytest

from ..support.variants import VARIANTS, Stage, Variant
from .table import module

anthropic = module("anthropic")
openai = module("openai")

# What ours leaves out on purpose is not about bytes.
COMPARED = [variant for variant in VARIANTS if "hide_thoughts" not in variant.options]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    yield made
    made.close(lenient=True)


def client_of(package: Any, path: str) -> Any:
    """The package's own kind of HTTP client, which differs between versions, on this socket."""
    kind = package.DefaultAsyncHttpxClient
    transport = sys.modules[kind.__mro__[1].__module__.partition(".")[0]].AsyncHTTPTransport
    return kind(transport=transport(uds=path, verify=False))


OPTIONS = {"base_url": "http://provider", "api_key": "x", "max_retries": 0}
MESSAGES = [{"role": "user", "content": "hi"}]


async def by_openai(path: str, variant: Variant) -> Tuple[str, bool]:
    """The text of the deltas, and whether the package raises."""
    text = ""
    http_client = client_of(openai, path)
    async with openai.AsyncOpenAI(**OPTIONS, http_client=http_client) as client:
        more = variant.options.get("extra_body") or {}
        try:
            chunks = await client.chat.completions.create(
                model="m", messages=MESSAGES, stream=True, **more
            )
            async for chunk in chunks:
                for choice in chunk.choices or []:
                    if choice.delta and choice.delta.content:
                        text += choice.delta.content
        except Exception:
            return text, True
    return text, False


async def by_anthropic(path: str, variant: Variant) -> Tuple[str, bool]:
    """The text of the message that the package puts together, and whether it raises."""
    raised, content = False, []
    http_client = client_of(anthropic, path)
    async with anthropic.AsyncAnthropic(**OPTIONS, http_client=http_client) as client:
        try:
            asked = client.messages.stream(model="m", max_tokens=9, messages=MESSAGES)
            async with asked as stream:
                async for _ in stream:
                    content = stream.current_message_snapshot.content
        except Exception:
            raised = True
    return "".join(block.text for block in content if block.type == "text"), raised


@pytest.mark.parametrize("variant", COMPARED, ids=lambda variant: variant.name)
def test_a_variant_is_read_as_the_package_reads_it(variant: Variant, stage: Stage) -> None:
    """The text is the same, and so is the kind of its end; or the variant says why not."""
    found = stage.play(variant)
    ours = (found["text"], "error" in found)
    read = by_openai if variant.wire.name == "openai" else by_anthropic
    text, raised = stage.loop.run_until_complete(read(stage.path, variant))
    theirs = (text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), raised)
    if "package" in variant.expected:
        assert theirs != ours, "there is no difference any more"
    else:
        assert theirs == ours
