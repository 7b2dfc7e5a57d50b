"""The service in front of a real model: SmolLM2 on llama.cpp, in both wire formats.

What the model says is its own affair. What is tried is that it comes through, with what was said
before, and that nothing stays behind however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import pytest

from omniforge_chat import (
    Claim,
    History,
    MemoryHistory,
    Message,
    Settings,
    Thought,
    Turn,
    create_app,
)
from omniforge_chat.models import Done

from ..support.answers import last, text
from ..support.client import Client
from ..support.constants import CONVERSATION, PATIENCE
from ..support.docs import README
from ..support.logs import Records
from ..support.process import ServiceProcess, running
from ..support.relay import ask as relayed
from ..support.relay import items_from, using
from ..support.servers import UvicornThread
from ..support.wires import ANTHROPIC, OPENAI, WIRES, Wire
from .llama import Llama, missing

if missing() is not None:
    pytest.skip(missing() or "", allow_module_level=True)

OTHER = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
BRIEF = "Answer in one short sentence."
QUESTION = "What is the capital of France?"
FOLLOW_UP = "And of Italy?"


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with Llama(slots=4, context=2048) as server:
        yield server


@pytest.fixture(scope="module")
def endless() -> Iterator[Llama]:
    """One whose replies end by something else than the model's own will."""
    with Llama(slots=4, context=2048, endless=True) as server:
        yield server


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@contextlib.contextmanager
def service(
    llama: Llama, wire: Wire, *, history: Optional[History] = None, **options: Any
) -> Iterator[UvicornThread]:
    """Our service in front of `llama`, with a memory. Nothing is left open at its end."""
    options = {"system_prompt": BRIEF, "temperature": 0, "max_tokens": 40, **options}
    history = MemoryHistory() if history is None else history
    responder = wire.responder(base_url=llama.url + wire.base_path, **options)
    app = create_app(responder, settings=Settings(), history=history)
    with UvicornThread(app) as server:
        yield server
        idle(llama)
        server.until(lambda: app.open_streams == 0)  # a client may see the end a moment before
        server.stop()


def idle(llama: Llama) -> None:
    """Wait until all slots are free."""
    deadline = time.monotonic() + PATIENCE
    while llama.busy():
        assert time.monotonic() < deadline, "a slot is still busy"
        time.sleep(0.01)


def answer(client: Client) -> Tuple[str, str, Any]:
    """The reply to what was asked: its text, the terminal event's name, and its data."""
    with client:
        status, _ = client.head()
        assert status == 200
        frames = client.frames()
    return (text(frames), *last(frames))


def ask(server: UvicornThread, message: str, conversation_id: str = CONVERSATION) -> Any:
    return answer(server.chat(message, conversation_id=conversation_id))


def kept(history: MemoryHistory, conversation_id: str = CONVERSATION) -> Sequence[Message]:
    async def load() -> Sequence[Message]:
        claim = Claim(conversation_id, "", "turn", "")
        messages = await history.begin_turn(claim)
        await history.end_turn(claim, ())
        return messages

    return asyncio.run(load())


def test_a_reply_comes_through_with_what_it_cost(llama: Llama, wire: Wire) -> None:
    """The counts are the model's own, and the end is one."""
    with service(llama, wire) as server, Records() as records:
        said, event, done = ask(server, QUESTION)
    assert "Paris" in said
    assert (event, done["finish_reason"]) == ("done", "stop")
    usage = done["usage"]
    assert usage["prompt_tokens"] > 10
    assert usage["completion_tokens"] > 4
    assert usage["tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "estimated" not in usage
    assert records.troubles == []


def test_a_follow_up_is_understood_by_what_was_said_before(llama: Llama, wire: Wire) -> None:
    """Asked without the first turn, the model does not think of Rome."""
    with service(llama, wire) as server:
        ask(server, QUESTION)
        told, _, done = ask(server, FOLLOW_UP)
        untold, _, alone = ask(server, FOLLOW_UP, OTHER)
    assert "Rome" in told
    assert "Rome" not in untold
    assert done["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]


def test_a_reply_cut_by_max_tokens_says_so(endless: Llama, wire: Wire) -> None:
    """A client can ask for the rest; it must know that there is one."""
    with service(endless, wire, max_tokens=5) as server:
        said, event, done = ask(server, "Tell me a story.")
    assert said
    assert (event, done["finish_reason"]) == ("done", "length")
    assert done["usage"]["completion_tokens"] == 5


def test_a_real_server_takes_every_parameter_in_the_form_that_it_is_sent(
    endless: Llama, wire: Wire
) -> None:
    """Each has the name and the type that the format has for it, and the limit holds."""
    names = wire.responder.options_type.parameters
    base_url = endless.url + wire.base_path
    responder = wire.responder(base_url=base_url, allow_parameters=names, max_tokens=6)
    for limit, made in [(4, 4), (40, 6)]:
        turn = Turn(QUESTION, CONVERSATION, "r", parameters={**PARAMETERS, "max_tokens": limit})
        done = relayed(responder, turn)[-1]
        assert isinstance(done, Done)
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", made)


PARAMETERS = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "stop": ["a text that does not come"],
    "seed": 1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "reasoning_effort": "low",
    "verbosity": "low",
    "response_format": {"type": "text"},
    "model": "omniforge",
    "user": "Ada",
}


def test_thoughts_are_told_apart_token_by_token(llama: Llama) -> None:
    """A real tokenizer cuts the marks where it likes."""
    grammar = 'root ::= "<think>" [a-z ]{3,20} "</think>" [A-Z] [a-z ]{3,12}'
    responder = OPENAI.responder(
        base_url=llama.url + OPENAI.base_path,
        hide_thoughts="on",
        extra_body={"grammar": grammar},
    )
    items = using(responder, lambda r: items_from(r, Turn(QUESTION, CONVERSATION, "r")))
    kinds = [type(item) for item in items if isinstance(item, (str, Thought))]
    said = "".join(item for item in items if isinstance(item, str))
    thought = "".join(item.text for item in items if isinstance(item, Thought))
    assert re.fullmatch(r"[a-z ]*[a-z][a-z ]*", thought)
    assert re.fullmatch(r"[A-Z][a-z ]{3,12}", said)
    assert kinds == sorted(kinds, key=lambda kind: kind is str)


def test_a_message_too_long_for_the_model_fails_and_leaves_no_trace(
    llama: Llama, wire: Wire
) -> None:
    """The client is told why, and the conversation goes on as if it had not been sent."""
    history = MemoryHistory()
    with service(llama, wire, history=history) as server:
        ask(server, QUESTION)
        before = kept(history)
        assert len(before) == 2
        said, event, error = ask(server, "\u732b " * 3000)
        assert (said, event, error["code"]) == ("", "error", "upstream_error")
        assert "exceeds the available context size (2048 tokens)" in error["message"]
        assert kept(history) == before
        assert "Rome" in ask(server, FOLLOW_UP)[0]


def test_a_context_that_runs_out_in_the_middle_is_no_end_like_any_other(wire: Wire) -> None:
    """llama.cpp puts an error frame under status 200, and ends the stream properly after it."""
    history = MemoryHistory()
    with Llama(slots=2, context=128, shared=True, endless=True) as llama:
        with (
            service(llama, wire, history=history, max_tokens=1000) as server,
            Records() as records,
        ):
            clients = [
                server.chat("Tell me a story.", conversation_id=c) for c in (CONVERSATION, OTHER)
            ]
            answers = [answer(client) for client in clients]
            for said, event, error in answers:
                assert said
                assert (event, error["code"]) == ("error", "upstream_error")
                assert error["message"] == "The model provider failed"
                assert error["usage"]["tokens"] > 10
            assert len(records.troubles) == 2
            assert all("Context size has been exceeded." in line for line in records.troubles)
        (said, _, _), _ = answers
        assert kept(history)[1] == Message("assistant", said, complete=False)
        with service(llama, wire, history=history, max_tokens=5) as server:
            assert ask(server, "Go on.")[1] == "done"


def test_a_client_that_leaves_gives_its_slot_back_at_once(endless: Llama, wire: Wire) -> None:
    """Nobody waits, and nobody pays, for what nobody reads."""
    with service(endless, wire, max_tokens=2000) as server:
        client = server.chat("Tell me a story.")
        client.head()
        assert client.frame().event == "chunk"
        assert endless.busy() == 1
        left = time.monotonic()
        client.close()
        idle(endless)
        # The whole reply takes more than twice that on the fastest of machines.
        assert time.monotonic() - left < 5


def test_a_client_that_leaves_lets_the_next_in_the_queue_begin(wire: Wire) -> None:
    """Where there is one slot only, and also for one who leaves while still in the queue."""
    with (
        Llama(slots=1, context=4096, endless=True) as llama,
        service(llama, wire, max_tokens=4000) as server,
    ):
        first = server.chat("Tell me a story.")
        first.head()
        first.frame()
        impatient, patient = server.chat("Tell me another."), server.chat("And one for me.")
        for client in (impatient, patient):
            client.head()
        impatient.close()
        assert first.frame().event == "chunk"
        left = time.monotonic()
        first.close()
        assert patient.frame().event == "chunk"
        assert time.monotonic() - left < 10
        patient.close()


def test_twenty_requests_one_after_the_other_all_succeed(llama: Llama, wire: Wire) -> None:
    """llama.cpp closes each connection that it has promised to keep: a pool finds them stale."""
    with service(llama, wire, max_tokens=3) as server, Records() as records:
        for number in range(20):
            said, event, _ = ask(server, f"Say {number}.")
            assert said
            assert event == "done"
    assert records.troubles == []


def test_eight_at_once_share_four_slots(endless: Llama, wire: Wire) -> None:
    """Four wait without a byte from the provider; none of them fails for that."""
    with service(endless, wire, max_tokens=20) as server, Records() as records:
        clients = [server.chat(f"Tell me {number} stories.") for number in range(8)]
        answers = [answer(client) for client in clients]
    for said, event, done in answers:
        assert said
        assert (event, done["usage"]["completion_tokens"]) == ("done", 20)
    assert records.troubles == []


# make run-llm


@contextlib.contextmanager
def started(**variables: str) -> Iterator[ServiceProcess]:
    """What `make run-llm` starts."""
    command = [sys.executable, "-m", "tests.llm"]
    with running(Path(__file__).parents[2], command=command, **variables) as service:
        yield service


@pytest.mark.parametrize(("wire", "number"), [(OPENAI, signal.SIGTERM), (ANTHROPIC, signal.SIGINT)])
def test_one_command_serves_a_model_and_ends_all_that_it_started(wire: Wire, number: int) -> None:
    """It remembers, and its end is that of a service that was told to stop."""
    with started(CHAT_RESPONDER=wire.name) as service:
        replies: List[str] = []
        for message in (QUESTION, FOLLOW_UP):
            client = Client(service.port)
            client.post({"message": message, "conversation_id": CONVERSATION})
            said, event, done = answer(client)
            assert event == "done"
            replies.append(said)
        assert "Paris" in replies[0]
        assert "Rome" in replies[1]
        if wire is OPENAI:  # the words and counts may differ from machine to machine
            shown = json.loads(re.findall("event: done\ndata: (.*)", README.read_text("utf-8"))[-1])
            assert set(done) == set(shown)
            assert done["history"] == shown["history"]
            assert set(done["usage"]) == set(shown["usage"])
        client = Client(service.port)
        client.post({"message": QUESTION})
        client.head()
        assert client.frame().event == "chunk"
        # To all that Ctrl-C in a terminal reaches: what is under way is still answered.
        os.killpg(service.process.pid, number)
        with client:
            assert last(client.frames())[0] == "done"
        # It is waited for until nobody is left who could write to the log.
        assert service.status() == 0


def test_the_service_ends_with_its_model() -> None:
    """One that can only fail should not look alive."""
    with started() as service:
        model = int(service.wait_for(r"on llama.cpp at .*\(process (\d+)\)")[1])
        assert service.port
        os.kill(model, signal.SIGKILL)
        assert service.status() == 1
        assert any("llama.cpp has ended" in line for line in service.log)
