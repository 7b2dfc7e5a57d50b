"""What can be a responder, what cannot and what to write instead, and finding one by its name."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import pytest

from omniforge_chat import Settings, Turn, create_app
from omniforge_chat.errors import SettingsError
from omniforge_chat.responders import check_responder, load_responder, placeholder

ADVICE = "write `async def respond(turn): yield ...` and pass `respond`"


async def respond(turn: Turn, prefix: str = "") -> AsyncIterator[str]:
    yield prefix + turn.message


async def keyed(turn: Turn, *, key: str) -> AsyncIterator[str]:
    yield key + turn.message


async def anything(*arguments: Any, **named: Any) -> AsyncIterator[str]:
    yield ""


async def coroutine(turn: Turn) -> str:
    return turn.message


def sync_generator(turn: Turn) -> Iterator[str]:
    yield turn.message


async def nothing() -> AsyncIterator[str]:
    yield ""


class Assistant:
    """A responder in each of the ways that a class can be one."""

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        yield turn.message

    async def method(self, turn: Turn) -> AsyncIterator[str]:
        yield turn.message

    @classmethod
    async def class_method(cls, turn: Turn) -> AsyncIterator[str]:
        yield turn.message

    @staticmethod
    async def static_method(turn: Turn) -> AsyncIterator[str]:
        yield turn.message

    async def wrong(self, turn: Turn) -> str:
        return turn.message


class Reply:
    """An async iterator that is made from a turn."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def __aiter__(self) -> AsyncIterator[str]:
        return respond(self.turn)


class CoroutineCall:
    async def __call__(self, turn: Turn) -> str:
        return turn.message


class SyncCall:
    def __call__(self, turn: Turn) -> Iterator[str]:
        yield turn.message


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(respond, id="async generator function"),
        pytest.param(anything, id="any arguments"),
        pytest.param(functools.partial(keyed, key="x"), id="partial"),
        pytest.param(functools.partial(functools.partial(keyed), key="x"), id="partial of partial"),
        pytest.param(Assistant(), id="callable object"),
        pytest.param(functools.partial(Assistant()), id="partial of a callable object"),
        pytest.param(Assistant().method, id="bound method"),
        pytest.param(Assistant.class_method, id="class method"),
        pytest.param(Assistant.static_method, id="static method"),
        pytest.param(lambda turn: respond(turn, "x"), id="lambda that returns a generator"),
        pytest.param(logged(respond), id="decorated"),
        pytest.param(Reply, id="class of async iterators"),
        pytest.param(placeholder, id="the default"),
    ],
)
def test_whatever_gives_an_async_iterator_for_a_turn_is_a_responder(candidate: Any) -> None:
    """It is given back as it is, and an app can be made of it."""
    assert check_responder(candidate) is candidate
    create_app(candidate, settings=Settings())


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        pytest.param(None, f"None is not callable; {ADVICE}", id="None"),
        pytest.param(
            "package:respond", f"'package:respond' is not callable; {ADVICE}", id="a name"
        ),
        pytest.param([respond], f"is not callable; {ADVICE}", id="a list"),
        pytest.param(coroutine, "coroutine is a coroutine function", id="coroutine function"),
        pytest.param(
            functools.partial(coroutine),
            "is a coroutine function",
            id="partial of a coroutine function",
        ),
        pytest.param(Assistant().wrong, "Assistant.wrong is a coroutine function", id="method"),
        pytest.param(CoroutineCall(), "is a coroutine function", id="object with a coroutine call"),
        pytest.param(sync_generator, "sync_generator is a sync generator", id="sync generator"),
        pytest.param(SyncCall(), "is a sync generator", id="object with a sync generator call"),
        pytest.param(
            sync_generator(Turn("", "", "")), "is not callable", id="called sync generator"
        ),
        pytest.param(Assistant, "Assistant is a class; pass an instance of it, or", id="class"),
        pytest.param(nothing, "nothing must take one argument, the turn", id="no argument"),
        pytest.param(keyed, "keyed must take one argument, the turn", id="a named argument more"),
        pytest.param(
            lambda turn, other: respond(turn),
            "must take one argument, the turn",
            id="two arguments",
        ),
        pytest.param(
            functools.partial(respond, Turn("", "", ""), ""),
            "must take one argument",
            id="full partial",
        ),
        pytest.param(Assistant.method, "must take one argument", id="method without its object"),
    ],
)
def test_what_is_no_responder_is_refused_with_what_to_write_instead(
    candidate: Any, problem: str
) -> None:
    """Most of these look like a responder to whoever wrote them."""
    with pytest.raises(TypeError, match=re.escape(problem)) as caught:
        check_responder(candidate)
    assert str(caught.value).startswith("responder ")
    assert ADVICE in str(caught.value)


def test_an_app_is_not_made_of_what_is_no_responder() -> None:
    """At the start, where the mistake is, and not when the first client asks."""
    with pytest.raises(TypeError, match=re.escape(ADVICE)):
        create_app(coroutine, settings=Settings())  # type: ignore[arg-type] # as mypy says too


def test_a_generator_that_was_called_already_is_refused() -> None:
    """It would answer one turn, and that without having seen it."""
    with pytest.raises(TypeError, match="respond was called already; pass the function itself"):
        check_responder(respond(Turn("", "", "")))


# By name


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


CODE = """
class Bots:
    class Inner:
        async def respond(turn):
            yield "inner"

async def respond(turn):
    yield "hi"

async def coroutine(turn):
    return "hi"

text = "hi"
"""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("assistant.py", "assistant:respond"),
        ("assistant.py", "assistant:Bots.Inner.respond"),
        ("house/assistant.py", "house.assistant:respond"),
        ("house/__init__.py", "house:respond"),
    ],
)
def test_a_responder_is_found_by_module_and_attribute(modules: Path, path: str, name: str) -> None:
    """As uvicorn and others name an object: no code is needed to use one's own."""
    (modules / path).parent.mkdir(exist_ok=True)
    (modules / path).write_text(CODE)
    found = load_responder(name)
    assert found.__module__ == name.partition(":")[0]
    assert found.__qualname__ == name.partition(":")[2]
    create_app(settings=Settings(responder=name))


def test_the_placeholder_has_a_name_of_its_own() -> None:
    """It is what answers where nothing is said."""
    assert load_responder("placeholder") is placeholder
    assert load_responder(Settings().responder) is placeholder


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "") for name in ("", ":", "assistant", "assistant:", ":respond", "Placeholder")),
        *((name, "") for name in (".assistant:respond", "..:respond")),
        ("absent:respond", "there is no module absent"),
        ("absent.deeper:respond", "there is no module absent"),
        ("assistant.absent:respond", "there is no module assistant.absent"),
        ("assistant..x:respond", "there is no module assistant."),
        ("assistant:absent", "module 'assistant' has no attribute 'absent'"),
        ("assistant:Bots.absent", "type object 'Bots' has no attribute 'absent'"),
        ("assistant:respond:x", "module 'assistant' has no attribute 'respond:x'"),
        ("assistant:respond.", "'function' object has no attribute ''"),
        ("assistant:coroutine", "coroutine is a coroutine function: it returns one value. Yield"),
        ("assistant:Bots", "Bots is a class; pass an instance of it"),
        ("assistant:text", f"'hi' is not callable; {ADVICE}"),
    ],
)
def test_a_name_that_leads_to_no_responder_is_a_bad_setting(
    modules: Path, name: str, why: str
) -> None:
    """One line for the operator: the setting, its value, what was expected, and what is wrong."""
    (modules / "assistant.py").write_text(CODE)
    with pytest.raises(SettingsError) as caught:
        load_responder(name)
    text = str(caught.value)
    assert text.startswith(
        f"CHAT_RESPONDER={name!r}: "
        "expected placeholder, openai, anthropic, or package.module:attribute"
    )
    assert why in text
    assert "\n" not in text


def test_an_app_is_not_made_where_the_named_responder_is_none(modules: Path) -> None:
    """The service ends with that line before it listens."""
    with pytest.raises(SettingsError, match="there is no module absent"):
        create_app(settings=Settings(responder="absent:respond"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import absent_dependency", ModuleNotFoundError),
        ("import assist", ModuleNotFoundError),
        ("from os import absent", ImportError),
        ("1 / 0", ZeroDivisionError),
        ("text.absent", NameError),
        ("'text'.absent", AttributeError),
        ("len()", TypeError),
        ("def", SyntaxError),
    ],
)
def test_an_error_inside_the_named_module_passes_through(
    modules: Path, code: str, error: type[Exception]
) -> None:
    """Its traceback shows its author what is wrong; `there is no module` would be a wrong track."""
    (modules / "assistant.py").write_text(code)
    with pytest.raises(error) as caught:
        load_responder("assistant:respond")
    assert type(caught.value) is error
