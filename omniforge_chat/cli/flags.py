"""The flags of the service, most of which stand for an environment variable."""

from __future__ import annotations

import argparse
import platform
from typing import Any, Dict, List, Optional, Tuple

from ..settings import Settings, variable
from ..version import version_of
from . import COMMANDS
from .environment import ENV_FILE_HELP

FLAGS = {
    "--host": ("host", "address to listen on"),
    "--port": ("port", "port to listen on; 0 takes a free one"),
    "--uds": ("uds", "path of a Unix socket to listen on, in place of an address"),
    "--workers": ("workers", "number of processes"),
    "--root-path": ("root_path", "path under which a proxy shows the service"),
    "--forwarded-allow-ips": ("forwarded_allow_ips", "proxies whose X-Forwarded headers hold"),
    "--timeout-keep-alive": ("keep_alive", "seconds for which an idle connection is kept"),
    "--ssl-certfile": ("ssl_certfile", "certificate, for TLS"),
    "--ssl-keyfile": ("ssl_keyfile", "its key, if that is in another file"),
    "--ssl-keyfile-password": ("ssl_keyfile_password", "the key's password"),
    "--ssl-ca-certs": ("ssl_ca_certs", "authorities for the certificates of clients"),
    "--ssl-cert-reqs": ("ssl_cert_reqs", "a client's certificate is 0 not asked for, 2 required"),
    "--ssl-ciphers": ("ssl_ciphers", "ciphers, as OpenSSL writes them"),
    "--log-level": ("log_level", "CRITICAL, ERROR, WARNING, INFO or DEBUG"),
    "--log-format": ("log_format", "text for people, json for machines"),
    "--access-log": ("access_log", "log a line for each request; --no-access-log logs none"),
    "--responder": ("responder", "placeholder, openai, anthropic, or package.module:attribute"),
}
"""Each flag of a setting: the field of Settings and the help."""


class Options(argparse.Namespace):
    """The flags that are no settings."""

    fd: Optional[int]
    env_file: Optional[str]
    check: bool
    reload: bool


def parse(arguments: List[str]) -> Tuple[Dict[str, str], Options]:
    """The given flags of settings, by the names of their variables, and the others."""
    parser = argparse.ArgumentParser(
        prog="omniforge-chat",
        description="A chat endpoint: a message in, a stream of server-sent events out.",
        epilog="Each setting has an environment variable, too, which its flag overrides; "
        "docs/configuration.md lists them all.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    defaults = Settings()
    for flag, (field, text) in FLAGS.items():
        default = getattr(defaults, field)
        kind: Dict[str, Any] = {"metavar": field.upper()}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        elif default != "":
            text += f" ({default:g})" if isinstance(default, float) else f" ({default})"
        parser.add_argument(flag, dest=variable(field), help=text, **kind)
    parser.add_argument(
        "--fd", type=int, default=None, help="descriptor of a socket to listen on, as systemd has"
    )
    parser.add_argument("--env-file", default=None, metavar="FILE", help=ENV_FILE_HELP)
    parser.add_argument(
        "--reload", action="store_true", default=False, help="restart when a Python file changes"
    )
    parser.add_argument(
        "--check", action="store_true", default=False, help="check the settings, and end"
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = "; ".join(f"`{name}` {text}" for name, text in COMMANDS.items())
    parser.add_argument_group("commands, in the first place", commands)
    known, others = parser.parse_known_args(arguments)
    if others:
        late = [f"{name} must come first" for name in COMMANDS if name in others]
        parser.error(late[0] if late else f"unrecognized arguments: {' '.join(others)}")
    given = vars(known)
    own = {name: given.pop(name) for name in ("fd", "env_file", "reload", "check")}
    texts = {True: "on", False: "off"}
    flags = {name: texts.get(value, value) for name, value in given.items()}
    return flags, Options(**own)


def _versions() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    serving = f"uvicorn {version_of('uvicorn')}, {python}, {platform.system()}"
    return f"omniforge-chat {version_of()} ({serving})"
