"""TLS: the settings of uvicorn's for it, and a check before anything starts."""

from __future__ import annotations

import contextlib
import ssl
from typing import Any, Dict, Iterator

from ..rules import SettingsError
from ..settings import Settings, variable


def tls_options(settings: Settings) -> Dict[str, Any]:
    """The arguments of `uvicorn.Config` for TLS; none without a certificate."""
    if not settings.ssl_certfile:
        return {}
    return {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile or None,
        "ssl_keyfile_password": settings.ssl_keyfile_password or None,
        "ssl_ca_certs": settings.ssl_ca_certs or None,
        "ssl_cert_reqs": settings.ssl_cert_reqs,
        "ssl_ciphers": settings.ssl_ciphers or None,
    }


def check_tls(settings: Settings) -> None:
    """Raises SettingsError if there can be no TLS as the settings want it."""
    if not settings.ssl_certfile:
        # Nobody who sets one of these wants to serve without TLS.
        for field in settings.__struct_fields__:
            if field.startswith("ssl_") and getattr(settings, field):
                raise SettingsError(variable("ssl_certfile"), "", f"a file, for {variable(field)}")
        return
    if settings.ssl_cert_reqs and not settings.ssl_ca_certs:
        name, reason = variable("ssl_ca_certs"), variable("ssl_cert_reqs")
        raise SettingsError(name, "", f"a file with the authorities that {reason} asks for")
    for field in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        _check_file(field, getattr(settings, field))
    if not settings.ssl_keyfile_password and _is_encrypted(
        settings.ssl_keyfile or settings.ssl_certfile
    ):
        # OpenSSL would ask for it at the terminal.
        name = variable("ssl_keyfile_password")
        raise SettingsError(name, "", "the password of the key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    password = settings.ssl_keyfile_password
    with _named(settings, "ssl_certfile", "a certificate that can be used, with its key"):
        context.load_cert_chain(
            settings.ssl_certfile, settings.ssl_keyfile or None, lambda: password
        )
    if settings.ssl_ca_certs:
        with _named(settings, "ssl_ca_certs", "a file with certificates of authorities"):
            context.load_verify_locations(settings.ssl_ca_certs)
    if settings.ssl_ciphers:
        with _named(settings, "ssl_ciphers", "ciphers in OpenSSL's notation"):
            context.set_ciphers(settings.ssl_ciphers)


@contextlib.contextmanager
def _named(settings: Settings, field: str, expected: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = error.args[-1] if error.args else error
        value = getattr(settings, field)
        raise SettingsError(variable(field), value, f"{expected}: {reason}") from None


def _check_file(field: str, path: str) -> None:
    if path:
        try:
            with open(path, "rb"):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            expected = f"a file that can be read: {reason}"
            raise SettingsError(variable(field), path, expected) from None


def _is_encrypted(path: str) -> bool:
    with open(path, "rb") as file:
        return b"ENCRYPTED" in file.read()
