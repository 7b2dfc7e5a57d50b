"""The proxy in the environment: for which addresses, and which one."""

from __future__ import annotations

import base64
import ipaddress
from typing import Dict, Optional, Tuple
from urllib.request import getproxies

import httpx


def proxy_for(url: str) -> Optional[str]:
    """The proxy that httpx takes from the environment for `url`.

    It reads HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY; None if there is none for `url`.
    """
    found: Dict[str, str] = getproxies()
    target = httpx.URL(url)
    exempt = [entry.strip() for entry in found.get("no", "").split(",")]
    proxy = found.get(target.scheme) or found.get("all")
    if not proxy or "*" in exempt or any(_covers(entry, target) for entry in exempt if entry):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def credentials_in(proxy: str) -> Tuple[str, ...]:
    """The password in the address of a proxy, and the header that httpx makes of it.

    A proxy in between sends its refusals in the provider's place, and may quote both.
    """
    address = httpx.URL(proxy)
    name, password = address.username, address.password
    if not password:
        return ()
    return password, base64.b64encode(f"{name}:{password}".encode()).decode()


def _covers(entry: str, target: httpx.URL) -> bool:
    """Whether an entry of NO_PROXY is about `target`, in httpx's reading."""
    exact = "://" in entry or entry.lower() == "localhost"
    if not exact:
        try:
            address = ipaddress.ip_address(entry.split("/")[0])
        except ValueError:
            entry = f"*{entry}"  # with all that is below
        else:
            entry = f"[{entry}]" if address.version == 6 else entry
    pattern = httpx.URL(entry if "://" in entry else f"all://{entry}")
    if pattern.host.startswith("*."):
        same = target.host.endswith(pattern.host[1:])
    elif pattern.host.startswith("*"):
        same = f".{target.host}".endswith(f".{pattern.host[1:]}")
    else:
        same = pattern.host in ("", target.host)
    return same and pattern.scheme in ("all", target.scheme) and pattern.port in (None, target.port)
