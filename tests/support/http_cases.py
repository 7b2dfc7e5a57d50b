"""Requests that try each rule of HTTP/1.1 (RFC 9112), and what comes of them.

`tests/live/test_http_rules.py` runs them over our own server. `seen_at` asks any server that runs
our app.
"""

from __future__ import annotations

import contextlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, Tuple

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\n"
POST = b"POST /health HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"


def _each(head: bytes, tail: bytes, lines: Dict[str, bytes]) -> Dict[str, bytes]:
    return {name: head + line + tail for name, line in lines.items()}


REFUSED: Dict[str, Dict[str, bytes]] = {
    "Host": {
        **_each(
            GET,
            b"\r\n\r\n",
            {
                "missing": b"A: b",
                "two": b"Host: a\r\nHost: b",
                "twice the same": HOST + HOST[:-2],
                "list": b"Host: a, b",
                "space": b"Host: a b",
                "bracket": b"Host: [",
                "IPv6 without brackets": b"Host: ::1",
                "no IPv6": b"Host: [::1::2]",
                "empty zone": b"Host: [fe80::1%]",
                "zone alone": b"Host: [%eth0]",
                "path": b"Host: a/b",
                "user": b"Host: user@a",
                "port": b"Host: a:b",
                "negative port": b"Host: a:-1",
                "percent": b"Host: %zz",
                "no ASCII": b"Host: \xc3\xa9",
                "too long": b"Host: " + b"a" * 301,
            },
        ),
        "two in HTTP/1.0": b"GET /health HTTP/1.0\r\n" + HOST + HOST + b"\r\n",
        "missing, target with a host": b"GET http://localhost/health HTTP/1.1\r\n\r\n",
    },
    "target": _each(
        b"",
        b" HTTP/1.1\r\n" + HOST + b"\r\n",
        {
            "relative": b"GET health",
            "authority": b"GET localhost:80",
            "asterisk": b"GET *",
            "fragment": b"GET /health#a",
            "absolute, fragment": b"GET http://localhost/health#a",
            "absolute, another scheme": b"GET ftp://localhost/health",
            "absolute, no host": b"GET http:///health",
            "absolute, port alone": b"GET http://:80/health",
            "absolute, user": b"GET http://user@localhost/health",
            "absolute, bracket": b"GET http://[/health",
            "absolute, port": b"GET http://localhost:a/health",
            "CONNECT": b"CONNECT localhost:80",
            "CONNECT, path": b"CONNECT /health",
            "no ASCII": b"GET /\xc3\xa9",
            "control character": b"GET /\x01",
            "space": b"GET /a b",
            "DEL": b"GET /\x7f",
        },
    ),
    "version": {
        **_each(
            b"GET /health ",
            b"\r\n" + HOST + b"\r\n",
            {
                "0.9": b"HTTP/0.9",
                "1.2": b"HTTP/1.2",
                "2.0": b"HTTP/2.0",
                "3.0": b"HTTP/3.0",
                "lower case": b"http/1.1",
                "two digits": b"HTTP/1.10",
                "another": b"ICY/1.1",
            },
        ),
        "none": b"GET /health\r\n\r\n",
        "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    },
    "length": {
        **_each(
            POST,
            b"\r\n\r\n0\r\n\r\n" + b"x" * 12,
            {
                "two": b"Content-Length: 5\r\nContent-Length: 6",
                "twice the same": b"Content-Length: 5\r\nA: b\r\ncontent-length: 5",
                "list": b"Content-Length: 5, 6",
                "list of the same": b"Content-Length: 5, 5",
                "plus": b"Content-Length: +5",
                "minus": b"Content-Length: -5",
                "hexadecimal": b"Content-Length: 0x5",
                "underscore": b"Content-Length: 1_0",
                "empty": b"Content-Length:",
                "space": b"Content-Length: 1 0",
                "other digits": b"Content-Length: \xd9\xa5",
                "too large": b"Content-Length: 18446744073709551621",
                "with chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
                "behind chunks": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
                "0 with chunks": b"Content-Length: 0\r\nTransfer-Encoding: chunked",
            },
        ),
    },
    "transfer coding": {
        **_each(
            POST + b"Transfer-Encoding:",
            b"\r\n\r\n1\r\nx\r\n" + LAST,
            {
                "gzip": b" gzip",
                "gzip, chunked": b" gzip, chunked",
                "chunked, gzip": b" chunked, gzip",
                "chunked twice": b" chunked, chunked",
                "two fields": b" chunked\r\nTransfer-Encoding: chunked",
                "two codings": b" gzip\r\nTransfer-Encoding: chunked",
                "identity": b" identity",
                "identity, chunked": b" identity, chunked",
                "empty": b"",
                "empty, chunked": b" , chunked",
                "xchunked": b" xchunked",
                "chunkedx": b" chunkedx",
                "parameter": b" chunked;q=1",
                "quoted": b' "chunked"',
                "vertical tab": b" \x0bchunked",
            },
        ),
        "HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"\r\n1\r\nx\r\n" + LAST,
    },
    "lines": _each(
        b"",
        b"\r\n\r\n",
        {
            "LF after the first": GET[:-2] + b"\n" + HOST + b"A: b",
            "LF after a field": GET + HOST[:-2] + b"\nA: b",
            "LF alone": GET[:-2] + b"\nHost: localhost\n\n",
            "LF at the end": GET + HOST[:-2] + b"\n",
            "CR in a value": GET + HOST + b"A: b\rc",
            "CR at the end": GET + HOST + b"A: b\r",
            "NUL": GET + HOST + b"A: b\0c",
            "control character": GET + HOST + b"A: b\x01c",
            "DEL": GET + HOST + b"A: b\x7fc",
            "folded": GET + HOST + b"A: b\r\n c",
            "folded with a tab": GET + HOST + b"A: b\r\n\tc",
            "folded coding": POST + b"Transfer-Encoding:\r\n chunked",
            "folded at the start": GET + b" A: b\r\n" + HOST[:-2],
            "space before the colon": GET + HOST + b"A : b",
            "space before Host's colon": GET + b"Host : localhost",
            "space in a name": GET + HOST + b"A b: c",
            "no colon": GET + HOST + b"A",
            "no name": GET + HOST + b": b",
            "bad name": GET + HOST + b"A(: b",
            "no ASCII in a name": GET + HOST + b"\xe9: b",
            "space at the start": b" " + GET + HOST[:-2],
            "tab for a space": b"GET\t/health HTTP/1.1\r\n" + HOST[:-2],
            "space at the end": b"GET /health HTTP/1.1 \r\n" + HOST[:-2],
        },
    ),
    "chunks": _each(
        CHUNKED + b"\r\n",
        b"x\r\n" + LAST,
        {
            "plus": b"+1\r\n",
            "minus": b"-1\r\n",
            "0x": b"0x1\r\n",
            "underscore": b"0_1\r\n",
            "no size": b"\r\n",
            "no digit": b"1g\r\n",
            "space before": b" 1\r\n",
            "space behind": b"1 \r\n",
            "too large": b"10000000000000001\r\n",
            "empty extension": b"1;\r\n",
            "LF": b"1\n",
            "LF in an extension": b"1;a=b\n",
            "CR in an extension": b"1;a\rb\r\n",
            "NUL in an extension": b"1;a\0b\r\n",
            "open quote": b'1;a="b\r\n',
            "LF behind the data": b"1\r\nx\n1\r\n",
            "nothing behind the data": b"1\r\nx1\r\n",
            "more data": b"1\r\nxyz1\r\n",
            "LF behind the last": b"1\r\nx\r\n0\n",
            "LF at the end": b"1\r\nx\r\n0\r\n\n",
        },
    ),
    "trailer lines": _each(
        CHUNKED + b"\r\n1\r\nx\r\n0\r\n",
        b"\r\n\r\n",
        {
            "space before the colon": b"A : b",
            "no colon": b"A",
            "folded": b"A: b\r\n c",
            "LF": b"A: b\nC: d",
            "Transfer-Encoding": b"Transfer-Encoding: chunked",
            "another coding": b"Transfer-Encoding: gzip",
            "no length": b"Content-Length: a",
            "two lengths": b"Content-Length: 1\r\nContent-Length: 2",
        },
    ),
}
"""By rule: requests that get one answer, an error, and the end of the connection."""

BEHIND = GET + b"Host: b\r\n\r\n"
AFTER = "GET /health b"
BODY = b"Content-Length: 5\r\n\r\nhello"


def _trailer(field: bytes) -> Tuple[bytes, List[str]]:
    whole = CHUNKED + b"\r\n5\r\nhello\r\n0\r\n" + field + b"\r\n\r\n" + BEHIND
    return whole, ["POST /health localhost hello", AFTER]


TAKEN: Dict[str, Tuple[bytes, List[str]]] = {
    "the next request": (GET + HOST + b"\r\n" + BEHIND, ["GET /health localhost", AFTER]),
    "empty Host": (GET + b"Host:\r\n\r\n", ["GET /health "]),
    "Host with a port": (GET + b"Host: a.b_c-d:80\r\n\r\n", ["GET /health a.b_c-d:80"]),
    "Host with an empty port": (GET + b"Host: a:\r\n\r\n", ["GET /health a:"]),
    "Host with IPv6": (GET + b"Host: [::1]:80\r\n\r\n", ["GET /health [::1]:80"]),
    "Host with IPv4 in IPv6": (
        GET + b"Host: [::ffff:1.2.3.4]\r\n\r\n",
        ["GET /health [::ffff:1.2.3.4]"],
    ),
    "Host with percent": (GET + b"Host: a%C3%A9\r\n\r\n", ["GET /health a%C3%A9"]),
    "Host with a zone": (
        GET + b"Host: [fe80::1%eth0]:80\r\n\r\n" + GET + b"Host: [fe80::1%25a-b]\r\n\r\n",
        ["GET /health [fe80::1%eth0]:80", "GET /health [fe80::1%25a-b]"],
    ),
    "Host between spaces": (
        GET + b"Host: \t a\t\r\n\r\n" + GET + b"Host:  a \t \r\n\r\n",
        ["GET /health a", "GET /health a"],
    ),
    "no Host in HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", ["GET /health None"]),
    "absolute": (
        b"GET http://a:80/health?b=http://c HTTP/1.1\r\n" + HOST + b"\r\n" + BEHIND,
        ["GET /health?b=http://c a:80", AFTER],
    ),
    "absolute, upper case": (
        b"GET HTTP://A/health HTTP/1.1\r\n" + HOST + b"\r\n",
        ["GET /health A"],
    ),
    "absolute, https": (b"GET https://a/health HTTP/1.1\r\n" + HOST + b"\r\n", ["GET /health a"]),
    "absolute, IPv6": (
        b"GET http://[::1]:8000/health HTTP/1.1\r\n" + HOST + b"\r\n",
        ["GET /health [::1]:8000"],
    ),
    "absolute, no path": (b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n", ["GET / a"]),
    "absolute, query alone": (b"GET http://a?b HTTP/1.1\r\n" + HOST + b"\r\n", ["GET /?b a"]),
    "absolute, HTTP/1.0": (b"GET http://a/health HTTP/1.0\r\n\r\n", ["GET /health a"]),
    "absolute, body": (
        b"POST http://a/health HTTP/1.1\r\n" + HOST + BODY + BEHIND,
        ["POST /health a hello", AFTER],
    ),
    "absolute, upgrade": (
        b"POST http://a/health HTTP/1.1\r\n"
        + HOST
        + b"Connection: upgrade\r\nUpgrade: h2c\r\n"
        + BODY,
        ["POST /health a hello"],
    ),
    "two slashes": (b"GET //a/b?c HTTP/1.1\r\n" + HOST + b"\r\n", ["GET //a/b?c localhost"]),
    "query": (b"GET /health?a?b HTTP/1.1\r\n" + HOST + b"\r\n", ["GET /health?a?b localhost"]),
    "asterisk": (
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n" + BEHIND,
        ["OPTIONS * localhost", AFTER],
    ),
    "empty lines before": (b"\r\n\r\n" + BEHIND + b"\r\n" + BEHIND, [AFTER, AFTER]),
    "empty line behind a body": (
        POST + BODY + b"\r\n" + BEHIND,
        ["POST /health localhost hello", AFTER],
    ),
    "no ASCII in a value": (GET + HOST + b"A: \xff\xc3\xa9\r\n\r\n", ["GET /health localhost"]),
    "chunks": (
        CHUNKED + b'\r\n03\r\nhel\r\n2;a;b=c;d="e;\\"f"\r\nlo\r\n00\r\n\r\n' + BEHIND,
        ["POST /health localhost hello", AFTER],
    ),
    "chunks, upper case, spaces": (
        POST + b"TRANSFER-ENCODING:  CHUNKED  \r\n\r\nA\r\n0123456789\r\n" + LAST + BEHIND,
        ["POST /health localhost 0123456789", AFTER],
    ),
    "a body within the data of chunks": (
        CHUNKED + b"\r\n5\r\n0\r\n\r\n\r\n" + LAST + BEHIND,
        ["POST /health localhost 0\r\n\r\n", AFTER],
    ),
    "a body that looks like a head": (
        POST + b"Content-Length: %d\r\n\r\n" % len(BEHIND) + BEHIND + BEHIND,
        ["POST /health localhost " + BEHIND.decode(), AFTER],
    ),
    "close": (GET + HOST + b"Connection: te, Close\r\n\r\n" + BEHIND, ["GET /health localhost"]),
    "HTTP/1.0": (
        b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + BEHIND,
        ["GET /health None"],
    ),
    "HTTP/1.0, body": (
        b"POST /health HTTP/1.0\r\nExpect: 100-continue\r\n" + BODY,
        ["POST /health None hello"],
    ),
    "HTTP/1.0, HEAD": (b"HEAD /health HTTP/1.0\r\n\r\n", [""]),
    "HEAD": (b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n" + BEHIND, ["", AFTER]),
    **{
        f"trailer {field.partition(b':')[0].decode()}": _trailer(field)
        for field in (
            b"Content-Type: text/html",
            b"Content-Length: 9",
            b"Host: evil",
            b"X-Request-ID: evil",
            b"X-Forwarded-For: 6.6.6.6",
            b"X-Forwarded-Prefix: /evil",
            b"Connection: close",
            b"Upgrade: h2c\r\nConnection: upgrade",
            b"Expect: 100-continue",
            b"Authorization: evil",
        )
    },
}
"""By name: requests and what the app hears of them: `METHOD target host body`."""


# Any server

_JSON = b'{"message":"hi"}'
_CHAT = b"POST /api/v1/chat HTTP/1.%d\r\nHost: localhost\r\nContent-Type: %b\r\n%b\r\n"
_LENGTH = b"Content-Length: 16\r\n"


def _ask(address: Tuple[str, int], data: bytes, *, seconds: float = 1.0) -> Tuple[bytes, bool]:
    """All that comes back within this time, and whether the server ended the connection."""
    received = b""
    with socket.create_connection(address, timeout=seconds) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        try:
            while True:
                piece = connection.recv(65536)
                if not piece:
                    return received, True
                received += piece
        except socket.timeout:
            return received, False
        except OSError:
            return received, True


def _statuses(received: bytes) -> List[int]:
    found = re.findall(rb"(?:^|\n|\})HTTP/1\.[01] ([2-5]\d\d)", received)
    return [int(status) for status in found]


def _is_taken(address: Tuple[str, int], rule: str, data: bytes) -> bool:
    """Whether the app was asked: it answers 200, or 405 as the path has no POST.

    It does not wait for a body. So one is taken if the request behind it is.
    """
    if rule in ("chunks", "trailer lines"):
        return 200 in _statuses(_ask(address, data + BEHIND)[0])
    return any(status in (200, 405) for status in _statuses(_ask(address, data)[0]))


def _http10(address: Tuple[str, int]) -> str:
    received, ended = _ask(address, _CHAT % (0, b"application/json", _LENGTH) + _JSON, seconds=3.0)
    if b"transfer-encoding" in received.lower():
        return "chunks"
    return "yes" if b"event: done" in received and ended else "no"


def _status(*expected: int) -> Callable[[bytes], Callable[[Tuple[str, int]], str]]:
    def with_data(data: bytes) -> Callable[[Tuple[str, int]], str]:
        def check(address: Tuple[str, int]) -> str:
            found = _statuses(_ask(address, data)[0])
            return "yes" if found == [*expected] else ", ".join(map(str, found)) or "no answer"

        return check

    return with_data


_OTHER_CHECKS: Dict[str, Callable[[Tuple[str, int]], str]] = {
    "HTTP/1.0": _http10,
    "trailers": _status(415)(
        _CHAT % (1, b"text/plain", b"Transfer-Encoding: chunked\r\n")
        + b"10\r\n%b\r\n0\r\nContent-Type: application/json\r\n\r\n" % _JSON
    ),
    "absolute": _status(200)(b"GET http://localhost/health?a HTTP/1.1\r\n" + HOST + b"\r\n"),
    "upgrade": _status(200)(
        _CHAT % (1, b"application/json", b"Connection: upgrade\r\nUpgrade: h2c\r\n" + _LENGTH)
        + _JSON
    ),
    "large head": _status(431)(GET + HOST + b"A: " + b"a" * 2**20 + b"\r\n\r\n"),
    "many fields": _status(431)(GET + HOST + b"a: b\r\n" * 1000 + b"\r\n"),
}


def seen_at(address: Tuple[str, int]) -> Dict[str, str]:
    """What the server of our app at `address` makes of each rule.

    For each key of REFUSED: "yes" if all those requests are refused, or "2 of 17 taken". For the
    other rules: "yes" if it keeps the rule, or else a word for what was seen.
    """
    found: Dict[str, str] = {}
    with ThreadPoolExecutor(8) as threads:
        for rule, requests in REFUSED.items():
            asked = [threads.submit(_is_taken, address, rule, data) for data in requests.values()]
            count = sum(answer.result() for answer in asked)
            found[rule] = f"{count} of {len(requests)} taken" if count else "yes"
        checks = list(_OTHER_CHECKS.items())
        found.update(zip(dict(checks), threads.map(lambda check: check[1](address), checks)))
    return found
