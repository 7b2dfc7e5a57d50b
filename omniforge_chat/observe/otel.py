"""OpenTelemetry, which is imported if the settings want it."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import Any, Iterator, Tuple

from ..observer import Observer
from ..rules import SettingsError
from ..settings import Settings


def make_tracing(settings: Settings) -> Tuple[Observer, ...]:
    """The observer that makes the spans of an app, if `settings` want one.

    Raises SettingsError if OpenTelemetry is missing, or cannot read its variables.
    """
    if not settings.tracing:
        return ()
    with _variables():
        tracing: Observer = _import("tracing").Tracing(
            content=settings.trace_content, gen_ai_names=settings.gen_ai_names
        )
    return (tracing,)


def start_export(settings: Settings) -> Any:
    """The Export of this process, if `settings` want one, or None. A host has its own.

    Raises SettingsError if it cannot be had.
    """
    with _variables():
        return _import("export").Export() if settings.tracing else None


def check_tracing(settings: Settings) -> None:
    """Raises SettingsError if a service cannot trace as `settings` and environment want it."""
    if settings.tracing:
        make_tracing(settings)
        with _variables():
            _import("export").check()


@contextmanager
def _variables() -> Iterator[None]:
    """OpenTelemetry reads variables when it is imported, too, and fails in ways of its own.

    Raises SettingsError in place of those.
    """
    try:
        yield
    except (SettingsError, ImportError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        expected = f"off, or variables OTEL_... that OpenTelemetry can use: {reason}"
        raise SettingsError("tracing", "on", expected) from error


def _import(name: str) -> Any:
    """The module of this room with that name, which needs OpenTelemetry. Raises SettingsError."""
    try:
        return import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "opentelemetry":
            raise
        expected = "off, or the extra otel: pip install 'omniforge-chat[otel]'"
        raise SettingsError("tracing", "on", expected) from None
