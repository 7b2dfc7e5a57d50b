"""What all streams of one app share: how many are open, how many may be, and whether it drains."""

from __future__ import annotations

from .errors import Overloaded, ShuttingDown


class Lifecycle:
    """The room of one app. Two apps in a process have two, and do not meet."""

    def __init__(self, *, max_streams: int) -> None:
        self.max_streams = max_streams
        self.open_streams = 0
        self.draining = False

    def admit(self) -> None:
        """Take a place; `release` gives it back.

        Raises ShuttingDown while the app drains, Overloaded where every place is taken.
        """
        if self.draining:
            raise ShuttingDown("Server is shutting down")
        if self.open_streams >= self.max_streams:
            raise Overloaded("Too many open streams")
        self.open_streams += 1

    def release(self) -> None:
        """Give a place back."""
        self.open_streams -= 1
