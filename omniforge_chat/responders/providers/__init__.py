"""The way to a model: a responder for each wire format, and the parts that they share.

Nothing outside imports from here but `OpenAIResponder` and `AnthropicResponder`, by name and when
they are needed. Without the extra `providers`, that import fails with the command to install it.
"""

try:
    import httpx as httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(
        "httpx is missing: pip install 'omniforge-chat[providers]'", name="httpx"
    ) from None
