"""`make run-llm`: our service in front of a real model, on this machine alone.

The arguments and the environment are the service's own; its provider is set here. Both end together
with SIGINT or SIGTERM, and then the exit status is 0.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Dict, NoReturn

from omniforge_chat.cli import main as serve

from .llama import MODEL, Llama, missing

SLOTS = 4
CONTEXT_TOKENS = 4096

DEFAULTS = {
    "CHAT_RESPONDER": "openai",  # or anthropic: the server speaks both
    "CHAT_HISTORY": "memory",
    # With the longest message, and 512 tokens of reply, this fits CONTEXT_TOKENS in most languages.
    "CHAT_CONTEXT_CHARS": "10000",
    "CHAT_MAX_TOKENS": "512",
    # So small a model wanders off when it may say much, or anything but the likeliest.
    "CHAT_SYSTEM_PROMPT": "Answer in one short sentence.",
    "CHAT_TEMPERATURE": "0",
}
"""What the environment does not say."""


def environment(url: str) -> Dict[str, str]:
    """This process's environment, with the provider at `url` and no other."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ANTHROPIC_"))}
    return {**DEFAULTS, **kept, "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}


def main() -> int:
    problem = missing()
    if problem is not None:
        print(f"run-llm: {problem}", file=sys.stderr)
        return 2
    died = threading.Event()

    def stop(*_: object) -> NoReturn:
        sys.exit(1 if died.is_set() else 0)

    def end_with(llama: Llama) -> None:
        if llama.died():
            print("run-llm: llama.cpp has ended", file=sys.stderr)
            died.set()
            signal.raise_signal(signal.SIGTERM)

    # While the service runs it has its own handlers, which let open streams finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with Llama(slots=SLOTS, context=CONTEXT_TOKENS) as llama:
        where = f"{llama.url} (process {llama.pid})"
        print(f"run-llm: {MODEL} on llama.cpp at {where}", file=sys.stderr)
        threading.Thread(target=end_with, args=(llama,), daemon=True).start()
        variables = environment(llama.url)
        os.environ.clear()
        os.environ.update(variables)
        return serve() or int(died.is_set())


if __name__ == "__main__":
    sys.exit(main())
