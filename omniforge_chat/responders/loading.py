"""Find a responder by its name, and refuse an object that cannot be one."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from typing import Any, FrozenSet, Optional

from ..core.responder import Responder
from ..rules import SettingsError
from ..settings import Settings, variable
from .placeholder import placeholder

_PROVIDERS = {"openai": "OpenAIResponder", "anthropic": "AnthropicResponder"}
_EXPECTED = f"placeholder, {', '.join(_PROVIDERS)}, or package.module:attribute"
_ADVICE = "write `async def respond(turn): yield ...` and pass `respond`"
_VARIABLE = variable("responder")


def check_responder(candidate: object) -> Responder:
    """Return `candidate` if it can be a responder.

    Raises TypeError, which tells the right form, if it certainly cannot: it is not callable,
    a coroutine function without `yield`, a sync generator function, a class, a generator that was
    called already, or it does not take one argument. A plain function that returns an async
    iterator passes.
    """
    name = getattr(candidate, "__qualname__", None) or repr(candidate)
    if inspect.isclass(candidate) and not hasattr(candidate, "__aiter__"):
        raise TypeError(f"responder {name} is a class; pass an instance of it, or {_ADVICE}")
    if hasattr(candidate, "__aiter__") and not callable(candidate):
        raise TypeError(f"responder {name} was called already; pass the function itself")
    if not callable(candidate):
        raise TypeError(f"responder {name} is not callable; {_ADVICE}")
    function: Any = candidate
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or inspect.isclass(function)):
        function = type(function).__call__  # an object that is called like a function
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"responder {name} is a coroutine function: it returns one value. "
            f"Yield the reply in pieces instead; {_ADVICE}"
        )
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"responder {name} is a sync generator; make it `async def`: {_ADVICE}")
    try:
        inspect.signature(candidate).bind(object())
    except TypeError as error:
        raise TypeError(
            f"responder {name} must take one argument, the turn ({error}); {_ADVICE}"
        ) from None
    except ValueError:
        pass  # written in C, without a signature
    return candidate


def parts_taken(responder: Responder) -> FrozenSet[str]:
    """The types of parts of a message, besides text, that `responder` declares in `takes_parts`.

    Raises TypeError if they are no names.
    """
    taken = getattr(responder, "takes_parts", ())
    if isinstance(taken, str) or not all(isinstance(name, str) for name in taken):
        raise TypeError(f"takes_parts must be names such as 'image_url', not {taken!r}")
    return frozenset(taken)


def descriptors_per_stream(name: str) -> int:
    """How many file descriptors a stream takes, if the responder called `name` answers it.

    A provider has a connection of its own. What your own responder opens is not known here.
    """
    return 2 if name in _PROVIDERS else 1


def load_responder(name: str, limits: Optional[Settings] = None) -> Responder:
    """Return the responder called `name`: one of this package's, or `package.module:attribute`.

    `openai` and `anthropic` read the process's environment; their time limits follow those of
    `limits`, if you give it. Raises SettingsError if there is no responder of that name, or if it
    lacks a variable or an extra. An error inside the named module passes through: its traceback is
    the user's own.
    """
    if name == "placeholder":
        return placeholder
    if name in _PROVIDERS:
        return _provider(name, limits)
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute) or module_name.startswith("."):
        raise SettingsError(_VARIABLE, name, _EXPECTED)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise SettingsError(
            _VARIABLE, name, f"{_EXPECTED}; there is no module {error.name}"
        ) from None
    try:
        found = functools.reduce(getattr, attribute.split("."), found)
        return check_responder(found)
    except (AttributeError, TypeError) as error:
        raise SettingsError(_VARIABLE, name, f"{_EXPECTED}; {error}") from None


def _provider(name: str, limits: Optional[Settings]) -> Responder:
    """Make a responder that relays a model. Its module needs httpx, which is an extra."""
    try:
        module = importlib.import_module(f".providers.{name}", __package__)
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise SettingsError(_VARIABLE, name, f"one that can be imported; {error}") from None
    responder: Responder = getattr(module, _PROVIDERS[name]).from_env(os.environ, limits=limits)
    return responder
