"""What can be a responder, what cannot and what to write instead, and finding one by its name."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, Iterator, Tuple

import pytest

import omniforge_chat
from omniforge_chat import Settings, Turn, chat_routes, create_app
from omniforge_chat.responders import check_responder, load_responder, placeholder
from omniforge_chat.responders.providers.anthropic import AnthropicResponder
from omniforge_chat.responders.providers.openai import OpenAIResponder
from omniforge_chat.rules import SettingsError

from ..support.answers import last
from ..support.app import call
from ..support.process import environment
from ..support.provider import Call, Provider

ADVICE = "write `async def respond(turn): yield ...` and pass `respond`"


async def respond(turn: Turn, prefix: str = "") -> AsyncIterator[str]:
    yield prefix + turn.message


async def keyed(turn: Turn, *, key: str) -> AsyncIterator[str]:
    yield key + turn.message


async def anything(*arguments: Any, **named: Any) -> AsyncIterator[str]:
    yield "x"


async def coroutine(turn: Turn) -> str:
    return turn.message


def sync_generator(turn: Turn) -> Iterator[str]:
    yield turn.message


async def nothing() -> AsyncIterator[str]:
    yield "x"


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


RESPONDERS: Dict[str, Any] = {
    "async generator function": respond,
    "any arguments": anything,
    "partial": functools.partial(keyed, key="x"),
    "partial of partial": functools.partial(functools.partial(keyed), key="x"),
    "callable object": Assistant(),
    "partial of a callable object": functools.partial(Assistant()),
    "bound method": Assistant().method,
    "class method": Assistant.class_method,
    "static method": Assistant.static_method,
    "lambda that returns a generator": lambda turn: respond(turn, "x"),
    "decorated": logged(respond),
    "class of async iterators": Reply,
    "the default": placeholder,
}


@pytest.mark.parametrize("candidate", RESPONDERS.values(), ids=RESPONDERS)
def test_whatever_gives_an_async_iterator_for_a_turn_is_a_responder(candidate: Any) -> None:
    """It is given back as it is, and an app that is made of it answers."""
    assert check_responder(candidate) is candidate
    frames = call(create_app(candidate, settings=Settings())).frames
    assert [frame.event for frame in (frames[0], frames[-1])] == ["chunk", "done"]


NO_RESPONDERS: Dict[str, Tuple[Any, str]] = {
    "None": (None, f"None is not callable; {ADVICE}"),
    "a name": ("package:respond", f"'package:respond' is not callable; {ADVICE}"),
    "a list": ([respond], f"is not callable; {ADVICE}"),
    "coroutine function": (coroutine, "coroutine is a coroutine function"),
    "partial of it": (functools.partial(coroutine), "is a coroutine function"),
    "method": (Assistant().wrong, "Assistant.wrong is a coroutine function"),
    "object with a coroutine call": (CoroutineCall(), "is a coroutine function"),
    "sync generator": (sync_generator, "sync_generator is a sync generator"),
    "object with a sync generator call": (SyncCall(), "is a sync generator"),
    "called sync generator": (sync_generator(Turn("", "", "")), "is not callable"),
    "class": (Assistant, "Assistant is a class; pass an instance of it, or"),
    "no argument": (nothing, "nothing must take one argument, the turn"),
    "a named argument more": (keyed, "keyed must take one argument, the turn"),
    "two arguments": (lambda turn, other: respond(turn), "must take one argument, the turn"),
    "full partial": (functools.partial(respond, Turn("", "", ""), ""), "must take one argument"),
    "method without its object": (Assistant.method, "must take one argument"),
}


@pytest.mark.parametrize(("candidate", "problem"), NO_RESPONDERS.values(), ids=NO_RESPONDERS)
def test_what_is_no_responder_is_refused_with_what_to_write_instead(
    candidate: Any, problem: str
) -> None:
    """Most of these look like a responder to whoever wrote them."""
    with pytest.raises(TypeError, match=re.escape(problem)) as caught:
        check_responder(candidate)
    assert str(caught.value).startswith("responder ")
    assert ADVICE in str(caught.value)


@pytest.mark.parametrize("make", [check_responder, create_app, chat_routes])
def test_a_generator_that_was_called_already_is_refused(make: Callable[[Any], Any]) -> None:
    """It would answer one turn, and that unseen. An app is not made of it, as of no other."""
    with pytest.raises(TypeError, match="respond was called already; pass the function itself"):
        make(respond(Turn("", "", "")))


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
    expected = "placeholder, openai, anthropic, or package.module:attribute"
    assert text.startswith(f"CHAT_RESPONDER={name!r}: expected {expected}")
    assert why in text
    assert "\n" not in text


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


# With an extra


@pytest.mark.parametrize(
    ("name", "kind"), [("openai", OpenAIResponder), ("anthropic", AnthropicResponder)]
)
def test_a_provider_is_chosen_by_its_name(
    name: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CHAT_RESPONDER=openai` is all it takes, beside the key."""
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-test-0123")
    monkeypatch.delenv(f"{name.upper()}_BASE_URL", raising=False)
    assert type(load_responder(Settings(responder=name).responder)) is kind


def python(code: str, **variables: str) -> str:
    """What `code` prints, in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_package_is_imported_without_the_extra() -> None:
    """If you relay no model, you need no HTTP client."""
    assert python("import sys, omniforge_chat; print('httpx' in sys.modules)") == "False\n"


def test_the_providers_are_public_names() -> None:
    """They are found where everything else is, and imported when they are named."""
    assert omniforge_chat.OpenAIResponder is OpenAIResponder
    assert omniforge_chat.AnthropicResponder is AnthropicResponder
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = omniforge_chat.Nothing  # type: ignore[attr-defined]


def test_whoever_lists_the_names_needs_no_extra() -> None:
    """`help()`, `inspect` and debuggers ask for each name that `dir()` gives."""
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "import inspect, pydoc, omniforge_chat\n"
        "found = dict(inspect.getmembers(omniforge_chat))\n"
        "assert 'create_app' in pydoc.render_doc(omniforge_chat)\n"
        "print(set(omniforge_chat.__all__) <= set(found))"
    )
    assert python(code) == "True\n"


def test_a_missing_extra_is_named() -> None:
    """With the command that installs it, which the service tells in the same words."""
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "import omniforge_chat\n"
        "try: omniforge_chat.OpenAIResponder\n"
        "except ImportError as error: print(error)"
    )
    assert python(code) == "httpx is missing: pip install 'omniforge-chat[providers]'\n"


def test_a_chosen_provider_has_its_limits_from_the_settings_that_were_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are a little shorter, so that the client is told who was silent."""
    with Provider(Call.left) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        settings = Settings(responder="openai", first_chunk_timeout=0.3)
        name, data = last(call(create_app(settings=settings), {"message": "hi"}).frames)
    assert (name, data["code"]) == ("error", "upstream_timeout")
    assert data["message"].endswith("within 0.25 seconds")
