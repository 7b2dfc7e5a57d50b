"""Each service is as its OpenAPI document says: schemathesis sends it what it makes of that.

With every check: statuses, headers, types, schemas, each event, good data and bad.
"""

from __future__ import annotations

import contextlib
import copy
from functools import cache
from typing import Any, Callable, Iterator

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from omniforge_chat import ChatApp, Settings, Thought, Usage, create_app
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

Serve = Callable[[ChatApp], str]

LENIENT = [positive_data_acceptance, negative_data_rejection]


def readable(document: Any) -> schemathesis.BaseSchema:
    """A schema of schemathesis for `document`."""
    schema = schemathesis.openapi.from_dict(copy.deepcopy(document))
    # No field value has control characters (RFC 9110, section 5.5): the server refuses them, in
    # text.
    controls = "".join(map(chr, (*range(32), 127)))
    schema.config.generation.update(exclude_header_characters=controls)
    return schema


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Tells where an app is served, which begins when it is first asked for."""
    with contextlib.ExitStack() as stack:
        yield cache(lambda app: stack.enter_context(UvicornThread(app)).url)


forgetful = create_app(answer_even_messages, settings=Settings())
remembering = create_app(answer_even_messages, settings=Settings(history="memory"))
schema = readable(document_of(forgetful))


@pytest.fixture(scope="module", params=[forgetful, remembering], ids=["forgetful", "remembering"])
def service(request: pytest.FixtureRequest, serve: Serve) -> str:
    """Where the service is."""
    return serve(request.param)


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


@others.parametrize()
@settings(max_examples=15)
def test_the_other_formats_are_as_the_document_says(case: Any, serve: Serve) -> None:
    """With the checks that are left, and the documents that a format has besides the chat."""
    case.call_and_validate(base_url=serve(speaking), excluded_checks=LENIENT)


keeping = create_app(answer_even_messages, settings=KEEPING)
kept = readable(document_of(keeping))


@kept.parametrize()
@settings(max_examples=20)
def test_a_service_that_keeps_things_is_as_the_document_says(case: Any, serve: Serve) -> None:
    """With ids, positions and keys that are well-formed, and with others."""
    # It makes headers without a look at their patterns; with an id a body means nothing.
    lenient = LENIENT if case.operation.path in (CHAT, REPLIES, "/api/chat") else []
    case.call_and_validate(base_url=serve(keeping), excluded_checks=lenient)


guarded = create_app(answer_even_messages, settings=GUARDED)
asking = readable(document_of(guarded))


@asking.parametrize()
@settings(max_examples=8)
def test_a_service_that_asks_is_as_the_document_says(case: Any, serve: Serve) -> None:
    """With the key, and without: whatever claims to ask must ask."""
    lenient = [] if case.operation.path in ("/health", "/ready") else LENIENT
    case.call_and_validate(base_url=serve(guarded), headers=AS_ME, excluded_checks=lenient)
