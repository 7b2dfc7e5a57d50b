"""Who asks, and how much they may. It knows no Starlette: `http` hands it what a request says.

- `credentials`: Credentials, which finds the owner of what a request shows.
- `keys`: API keys, by their hash.
- `key_file`: the file that they are in.
"""

from .credentials import Credentials, make_credentials, read_secret

__all__ = ["Credentials", "make_credentials", "read_secret"]
