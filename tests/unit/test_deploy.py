"""The files of docs/deploy, as far as they can be checked by reading them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

from ruamel.yaml import YAML

from omniforge_chat import Settings, create_app
from omniforge_chat.settings import variable

from ..support.app import call
from ..support.docs import DOCS, ROOT

DEPLOY = DOCS / "deploy"
_settings = Settings()
LONGEST_STOP = _settings.drain_timeout + 3 * _settings.cleanup_timeout + 1
"""Seconds that a stop takes at most: docs/deployment.md."""

VARIABLES = {variable(field) for field in Settings.__struct_fields__}


def manifests() -> Dict[str, Any]:
    """What kubernetes.yaml and the example of a Secret declare, by their kinds."""
    found = {}
    for name in ("kubernetes.yaml", "kubernetes-secret.yaml"):
        for manifest in YAML(typ="safe").load_all((DEPLOY / name).read_text("utf-8")):
            found[manifest["kind"]] = manifest
    return found


def compose() -> Dict[str, Any]:
    """The services of compose.yaml."""
    source = (DEPLOY / "compose.yaml").read_text("utf-8")
    services: Dict[str, Any] = YAML(typ="safe").load(source)["services"]
    return services


def worker() -> Dict[str, Any]:
    service: Dict[str, Any] = compose()["chat-1"]
    return service


def dockerfile() -> str:
    build = worker()["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    return Path(ROOT, build["dockerfile"]).read_text("utf-8")


def test_the_image_has_every_extra_of_a_service() -> None:
    """Whoever sets CHAT_HISTORY in a container cannot install a driver there."""
    [extras] = re.findall(r"'/src\[(.*)\]'", dockerfile())
    [table] = re.findall(
        r"^\[project\.optional-dependencies\]\n(.*?)\n\n",
        (ROOT / "pyproject.toml").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    known = re.findall(r"^(\w+) = ", table, re.MULTILINE)
    assert sorted([*extras.split(","), "client"]) == sorted(known)


def test_the_last_stage_of_the_image_installs_nothing() -> None:
    """So it has no compiler, no pip in its environment, and no source of ours."""
    _, last = dockerfile().split("\nFROM ")[-2:]
    assert not re.search(r"^(RUN|ADD) ", last, re.MULTILINE)
    assert all("--from=build" in line for line in re.findall(r"^COPY .*", last, re.MULTILINE))


def test_a_worker_of_compose_has_the_time_that_a_drain_takes() -> None:
    """Docker gives 10 seconds if nothing is said, and kills then."""
    given = re.fullmatch(r"(\d+)s", worker()["stop_grace_period"])
    assert given
    assert int(given[1]) > LONGEST_STOP


def test_the_unit_has_the_time_that_a_drain_takes_and_our_variables() -> None:
    """systemd kills what is left when the time is over."""
    unit = (DEPLOY / "omniforge-chat.service").read_text("utf-8")
    given = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))
    assert given.keys() <= VARIABLES
    Settings.from_env(given)
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > LONGEST_STOP


def test_a_pod_has_the_time_that_a_drain_takes() -> None:
    """The pause of preStop counts, too: Kubernetes starts its clock before it."""
    found = manifests()
    settings = Settings.from_env(found["ConfigMap"]["data"])
    pod = found["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    command, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    stop = settings.drain_timeout + 3 * settings.cleanup_timeout + 1
    assert pod["terminationGracePeriodSeconds"] > int(pause) + stop


def test_the_variables_of_a_pod_are_ours() -> None:
    """A name with a mistake in it is not refused: it does nothing."""
    found = manifests()
    given = {**found["ConfigMap"]["data"], **found["Secret"]["stringData"]}
    assert all(isinstance(value, str) for value in given.values())
    assert given.keys() <= VARIABLES
    [container] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    named = [name["name"] for entry in container["envFrom"] for name in entry.values()]
    assert named == [found[kind]["metadata"]["name"] for kind in ("ConfigMap", "Secret")]


def test_a_pod_keeps_what_the_image_promises() -> None:
    """The user, the port and the one place to write to are those of the Dockerfile."""
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    user, port = pod["securityContext"]["runAsUser"], container["ports"][0]["containerPort"]
    recipe = dockerfile()
    assert re.search(rf"^USER {user}:{pod['securityContext']['runAsGroup']}$", recipe, re.MULTILINE)
    assert re.search(rf"^EXPOSE {port}$", recipe, re.MULTILINE)
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_the_manifests_find_each_other() -> None:
    """The names in them are compared by nobody else before a request is lost."""
    found = manifests()
    template = found["Deployment"]["spec"]["template"]
    [container] = template["spec"]["containers"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert found[kind]["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == template["metadata"]["labels"]
    metrics = container["ports"][1]["containerPort"]
    assert found["ConfigMap"]["data"]["CHAT_METRICS"] == f"0.0.0.0:{metrics}"
    port = container["ports"][0]["name"]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == port
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port
        path = container[probe]["httpGet"]["path"]
        assert call(create_app(), method="GET", path=path).status == 200
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"


def test_prometheus_and_grafana_of_compose_find_what_they_read() -> None:
    """A target that is not there is seen only in a graph that stays empty."""
    load = YAML(typ="safe").load
    [job] = load((DEPLOY / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    port = worker()["environment"]["CHAT_METRICS"].rpartition(":")[2]
    workers = [name for name in compose() if name.startswith("chat-")]
    assert job["static_configs"] == [{"targets": [f"{name}:{port}" for name in workers]}]
    [source] = load((DEPLOY / "grafana.yaml").read_text("utf-8"))["datasources"]
    assert source["url"].partition("://")[2].partition(":")[0] in compose()
    for service in compose().values():
        for volume in service.get("volumes", []):
            path = volume.partition(":")[0]
            assert not path.startswith(".") or (DEPLOY / path).is_file()
