"""Who asks, as far as the app around the chat has found out."""

from __future__ import annotations

from starlette.types import Scope


def owner_of(scope: Scope) -> str:
    """The identity of the user whom a layer around the chat has put into `scope`, or "".

    Starlette's AuthenticationMiddleware does that. Conversations and replies belong to the owner.
    """
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return ""
    try:
        return str(user.identity)
    except (AttributeError, NotImplementedError):  # as Starlette's SimpleUser has it
        return str(user.display_name)
