"""The responders: the placeholder, and the way to find one by its name.

`app`, `http` and `cli` use the names that are exported here. `providers`, the way to a model, needs
the extra of the same name: `load_responder` and the package's `__init__` import it when asked to.
"""

from .loading import check_responder, descriptors_per_stream, load_responder, parts_taken
from .placeholder import placeholder

__all__ = [
    "check_responder",
    "descriptors_per_stream",
    "load_responder",
    "parts_taken",
    "placeholder",
]
