"""What was said before, and who may speak next."""

from .memory import MemoryHistory
from .protocol import History
from .turn import Recollection, late_history
from .window import window

__all__ = ["History", "MemoryHistory", "Recollection", "late_history", "window"]
