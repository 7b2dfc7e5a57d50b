"""The parameters of a request that the operator lets go on to the provider.

They have the names of OpenAI's chat completions, whatever format a client and a provider speak. A
name that is not here can never be allowed: the rest of a request belongs to the service.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, Mapping, Sequence

from ...errors import InvalidParameter
from ...rules import Rule, SettingsError, is_identifier

LIMITS = ("max_tokens", "max_completion_tokens")
"""The two names for the longest reply."""


def _number(low: float, high: float) -> Rule:
    # A bool is an int to Python, and NaN is within no bounds.
    return Rule(
        f"a number from {low} to {high}",
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def _whole(low: int, high: int = 2**31 - 1) -> Rule:
    return Rule(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _are_texts(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _short(longest: int) -> Rule:
    return Rule(
        f"a text of 1 to {longest} characters",
        lambda value: isinstance(value, str) and 0 < len(value) <= longest,
    )


def _is_format(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


_WORD = Rule("1 to 128 visible ASCII characters", is_identifier)

RULES: Mapping[str, Rule] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "top_k": _whole(-1),
    "min_p": _number(0, 1),
    **dict.fromkeys(LIMITS, _whole(1)),
    "stop": Rule("a text, or an array of texts, none of them empty", _are_texts),
    "seed": _whole(-(2**63), 2**63 - 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, 2),
    "reasoning_effort": _WORD,
    "verbosity": _WORD,
    "response_format": Rule("an object with a type", _is_format),
    "model": _short(256),
    "user": _short(512),
}
"""All that can be allowed, and the values that each may have."""


def check_names(names: object, known: Sequence[str]) -> None:
    """Raises SettingsError if there are other `names` than those that a format knows."""
    expected = f"names among {', '.join(known)}"
    if not isinstance(names, tuple):
        raise SettingsError("allow_parameters", names, f"a tuple of {expected}")
    wrong = ",".join(str(name) for name in names if name not in known)
    if wrong:
        raise SettingsError("allow_parameters", wrong, expected)


def allowed(names: Collection[str], given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the parameters of these names; null and an empty array count as absent.

    Raises InvalidParameter, which names all that are wrong.
    """
    found = {name: given[name] for name in names if given.get(name) not in (None, [])}
    wrong = [name for name, value in found.items() if not RULES[name].holds(value)]
    if wrong:
        raise InvalidParameter("; ".join(f"{n}: must be {RULES[n].expected}" for n in wrong))
    return found
