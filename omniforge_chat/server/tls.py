"""TLS: the settings of uvicorn's for it, and a check before anything starts."""

from __future__ import annotations

import ssl
from typing import Any, Dict

from uvicorn.config import SSL_PROTOCOL_VERSION, create_ssl_context

from ..errors import SettingsError
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
        for field in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            if getattr(settings, field):
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
    try:
        create_ssl_context(
            certfile=settings.ssl_certfile,
            keyfile=settings.ssl_keyfile or None,
            password=settings.ssl_keyfile_password or None,
            ssl_version=SSL_PROTOCOL_VERSION,
            cert_reqs=settings.ssl_cert_reqs,
            ca_certs=settings.ssl_ca_certs or None,
            ciphers=settings.ssl_ciphers or None,
        )
    except (ssl.SSLError, OSError, ValueError) as error:
        name = variable("ssl_certfile")
        expected = f"a certificate that can be used, with its key: {error}"
        raise SettingsError(name, settings.ssl_certfile, expected) from None


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
