"""Who asks, and how much they may. It knows no Starlette: `http` hands it what a request says.

- `credentials`: Credentials, which finds the owner of what a request shows.
- `keys`: API keys, by their hash.
- `key_file`: the file that they are in.
- `limits`: Limiter and Pass, which bound how much a caller may have, and what counts mean.
- `limits_memory`: a store of counts, in this process.
- `limits_loading`: makes the one that the settings name.
"""

from .credentials import Credentials, make_credentials, read_secret
from .key_file import Key, hash_of, locked, new_key, read_keys, write_keys
from .limits import Limiter, Pass, subject_of
from .limits_loading import make_limiter

__all__ = [
    "Credentials",
    "Key",
    "Limiter",
    "Pass",
    "hash_of",
    "locked",
    "make_credentials",
    "make_limiter",
    "new_key",
    "read_keys",
    "read_secret",
    "subject_of",
    "write_keys",
]
