"""`omniforge-chat talk`: a conversation with a service, in a terminal or in a script.

The modules:

- `command`: its arguments, and its exit status.
- `address`: the address of the chat.
- `key`: the key that says who the user is.
- `conversation`: messages and their replies. It alone needs httpx, which is an extra.
- `dialog`: the prompt, and the commands there.
- `terminal`: where the texts go, and what of them.
- `interrupts`: Ctrl-C.
"""

from .command import run

__all__ = ["run"]
