"""Who asks, and how much they may. It knows no Starlette: `http` hands it what a request says.

- `credentials`: Credentials, which finds the owner of what a request shows.
- `keys`: API keys, by their hash.
- `key_file`: the file that they are in.
- `tokens`: JWT, and the callers that they name.
- `issuer`: the public keys of their issuer.
- `signing_keys`: these, with the algorithms that fit each.
- `credentials_loading`: makes the credentials that the settings name.
- `limits`: Limiter and Pass, which bound how much a caller may have, and what counts mean.
- `limits_memory`: a store of counts, in this process.
- `limits_loading`: makes the one that the settings name.
"""

from .credentials import Credentials, Finding, read_secret
from .credentials_loading import make_credentials
from .key_file import Key, hash_of, locked, new_key, read_keys, write_keys
from .limits import Limiter, Pass, subject_of
from .limits_loading import make_limiter

__all__ = [
    "Credentials",
    "Finding",
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
