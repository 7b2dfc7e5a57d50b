"""Each service is as its OpenAPI document says: schemathesis sends it what it makes of that.

With every check: statuses, headers, types, schemas, each event, good data and bad.
"""

from __future__ import annotations

import copy
from typing import Any, Iterator

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from omniforge_chat import Settings, Thought, Usage, create_app
from omniforge_chat.rules import DIALECTS

from ..support.openapi import (
    AS_ME,
    CHAT,
    GUARDED,
    KEEPING,
    REPLIES,
    answer_even_messages,
    document_of,
)
from ..support.responders import saying
from ..support.servers import UvicornThread

LENIENT = [positive_data_acceptance, negative_data_rejection]


def readable(document: Any) -> schemathesis.BaseSchema:
    """A schema of schemathesis for `document`."""
    schema = schemathesis.openapi.from_dict(copy.deepcopy(document))
    # No field value has control characters (RFC 9110, section 5.5): the server refuses them, in
    # text.
    controls = "".join(map(chr, (*range(32), 127)))
    schema.config.generation.update(exclude_header_characters=controls)
    return schema


forgetful = create_app(answer_even_messages, settings=Settings())
remembering = create_app(answer_even_messages, settings=Settings(history="memory"))
schema = readable(document_of(forgetful))


@pytest.fixture(scope="module", params=[forgetful, remembering], ids=["forgetful", "remembering"])
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the service is."""
    with UvicornThread(request.param) as live:
        yield live.url


@schema.parametrize()
@settings(max_examples=50)
def test_the_service_is_as_the_document_says(case: Any, service: str) -> None:
    """Also one that remembers, if it is asked as one that does not."""
    case.call_and_validate(base_url=service)


# These formats refuse nothing but what the responder could not be given as it was meant, and no
# schema tells that the last message must be the user's. So data that are good by the schema may be
# refused, and others accepted.
speaking = create_app(
    saying(Thought("Hm."), "Hello", Usage(7)), settings=Settings(dialects=DIALECTS, thoughts=True)
)
of_others = document_of(speaking)
del of_others["paths"][CHAT]
others = readable(of_others)


@pytest.fixture(scope="module")
def speaking_service() -> Iterator[str]:
    """Where the service is that speaks all formats."""
    with UvicornThread(speaking) as live:
        yield live.url


@others.parametrize()
@settings(max_examples=15)
def test_the_other_formats_are_as_the_document_says(case: Any, speaking_service: str) -> None:
    """With the checks that are left, and the documents that a format has besides the chat."""
    case.call_and_validate(base_url=speaking_service, excluded_checks=LENIENT)


keeping = create_app(answer_even_messages, settings=KEEPING)
kept = readable(document_of(keeping))


@pytest.fixture(scope="module")
def keeping_service() -> Iterator[str]:
    """Where the service is that keeps what it can."""
    with UvicornThread(keeping) as live:
        yield live.url


@kept.parametrize()
@settings(max_examples=20)
def test_a_service_that_keeps_things_is_as_the_document_says(
    case: Any, keeping_service: str
) -> None:
    """With ids, positions and keys that are well-formed, and with others."""
    # It makes headers without a look at their patterns; with an id a body means nothing.
    lenient = LENIENT if case.operation.path in (CHAT, REPLIES, "/api/chat") else []
    case.call_and_validate(base_url=keeping_service, excluded_checks=lenient)


guarded = create_app(answer_even_messages, settings=GUARDED)
asking = readable(document_of(guarded))


@pytest.fixture(scope="module")
def guarded_service() -> Iterator[str]:
    """Where the service is that asks."""
    with UvicornThread(guarded) as live:
        yield live.url


@asking.parametrize()
@settings(max_examples=8)
def test_a_service_that_asks_is_as_the_document_says(case: Any, guarded_service: str) -> None:
    """With the key, and without: whatever claims to ask must ask."""
    lenient = [] if case.operation.path in ("/health", "/ready") else LENIENT
    case.call_and_validate(base_url=guarded_service, headers=AS_ME, excluded_checks=lenient)
