"""The manifests in kubernetes/: put together as kustomize does it, and held against the API's schemas and our settings.

Kubernetes' own tool puts them together too where it is installed; elsewhere the small resolver below has to do.
"""

import copy
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from projectiond.plugins.registry import load_projections
from projectiond.settings import Settings
from projectiond.supervisor import SILENT_SECONDS

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "kubernetes"
ROOTS = [KUBERNETES / "base", KUBERNETES / "prepare", *sorted((KUBERNETES / "overlays").iterdir())]
# The oldest whose manifests are as these, and the newest that the schemas are to be had of.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
OF_OPERATORS = {"PodMonitor", "PrometheusRule"}
KUBECTL = shutil.which("kubectl") or ""

roots = pytest.mark.parametrize("root", ROOTS, ids=lambda path: path.name)


def read(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def resolve(directory: Path, manifests: list[Manifest] | None = None) -> list[Manifest]:
    """Put a kustomization together: resources, components, generators, patches and images, as far as ours use them."""
    (kustomization,) = read(directory / "kustomization.yaml")
    unknown = set(kustomization) - {
        *("apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches", "images"),
    }
    assert not unknown, f"the resolver does not know {unknown}"
    found = manifests or []
    for name in kustomization.get("resources", []):
        path = directory / name
        found += resolve(path.resolve()) if path.is_dir() else read(path)
    for name in kustomization.get("components", []):
        found = resolve((directory / name).resolve(), found)
    for generator in kustomization.get("configMapGenerator", []):
        data = {Path(file).name: (directory / file).read_text() for file in generator["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    for patch in kustomization.get("patches", []):
        for document in read(directory / patch["path"]):
            (target,) = [one for one in found if _identity(one) == _identity(document)]
            target.update(_merged(target, document))
    for image in kustomization.get("images", []):
        for container in containers(found):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _merged(below: Any, above: Any) -> Any:  # noqa: ANN401 -- whatever YAML holds
    """Merge as kustomize's patches do: lists of named things by name, other lists as a whole."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}
    if isinstance(below, list) and isinstance(above, list) and all("name" in item for item in [*below, *above]):
        named = {item["name"]: item for item in below}
        return list((named | {item["name"]: _merged(named.get(item["name"]), item) for item in above}).values())
    return copy.deepcopy(above)


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "Job"}:
            yield manifest["spec"]["template"]["spec"]


def containers(manifests: list[Manifest]) -> Iterator[Manifest]:
    for pod in pods(manifests):
        yield from pod.get("initContainers", [])
        yield from pod["containers"]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def settings_of(deployment: Manifest) -> dict[str, str]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"]}


def validate(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] not in OF_OPERATORS:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)


@roots
def test_the_api_takes_every_manifest(root: Path) -> None:
    validate(resolve(root))


@roots
@pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
def test_kustomize_makes_the_same_of_it(root: Path) -> None:
    done = subprocess.run([KUBECTL, "kustomize", root], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    rendered = [document for document in yaml.safe_load_all(done.stdout) if document]
    validate(rendered)
    resolved = resolve(root)
    assert sorted(manifest["kind"] for manifest in rendered) == sorted(manifest["kind"] for manifest in resolved)
    # In which order things are mounted is all the same.
    for container in [*containers(rendered), *containers(resolved)]:
        container["volumeMounts"].sort(key=lambda mount: str(mount["name"]))
    assert list(containers(rendered)) == list(containers(resolved))


def test_every_file_is_part_of_something() -> None:
    named = {KUBERNETES / "monitoring" / "kustomization.yaml"}
    for file in KUBERNETES.rglob("kustomization.yaml"):
        (kustomization,) = read(file)
        named |= {file, *(file.parent / name for name in kustomization.get("resources", []))}
        named |= {file.parent / patch["path"] for patch in kustomization.get("patches", [])}
        for generator in kustomization.get("configMapGenerator", []):
            named |= {file.parent / name for name in generator["files"]}
    files = {path for path in KUBERNETES.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert files == {path for path in named if path.is_file()}


@roots
def test_pods_fit_the_restricted_standard(root: Path) -> None:
    for pod in pods(resolve(root)):
        security = pod["securityContext"]
        assert security["runAsNonRoot"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(set(volume) <= {"name", "configMap", "secret"} for volume in pod["volumes"])
    for container in containers(resolve(root)):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= set(container["resources"])


@roots
def test_nothing_that_is_mounted_or_selected_is_missing(root: Path) -> None:
    manifests = resolve(root)
    made = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "ConfigMap"}
    for pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} <= made
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
    if root.name != "prepare":
        labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert one(manifests, "Deployment")["spec"]["selector"]["matchLabels"] == labels
        assert one(manifests, "Service")["spec"]["selector"] == labels
        assert one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
        assert one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


class TestDeployment:
    @pytest.fixture
    def manifests(self) -> list[Manifest]:
        return resolve(KUBERNETES / "base")

    @pytest.fixture
    def deployment(self, manifests: list[Manifest]) -> Manifest:
        return one(manifests, "Deployment")

    def test_the_settings_are_those_of_production(self, manifests: list[Manifest]) -> None:
        (text,) = one(manifests, "ConfigMap")["data"].values()
        assert tomllib.loads(text) == tomllib.loads((ROOT / "config" / "production.toml").read_text())

    def test_every_variable_is_a_setting(self, manifests: list[Manifest], deployment: Manifest) -> None:
        variables = settings_of(deployment)
        known = {f"PROJECTIOND_{name.upper()}" for name in Settings.model_fields} | {"PROJECTIOND_CONFIG"}
        assert set(variables) <= known
        assert Path(variables["PROJECTIOND_CONFIG"]).name in one(manifests, "ConfigMap")["data"]

    def test_it_grants_more_time_than_the_drain_takes(self, manifests: list[Manifest], deployment: Manifest) -> None:
        (text,) = one(manifests, "ConfigMap")["data"].values()
        drain_seconds = tomllib.loads(text)["drain_seconds"]
        assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain_seconds + 10

    def test_probes_reach_what_there_is_from_outside_of_the_pod(self, deployment: Manifest) -> None:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert settings_of(deployment)["PROJECTIOND_HTTP_HOST"] == "0.0.0.0"  # noqa: S104 -- the manifest's
        assert container["ports"] == [{"name": "http", "containerPort": Settings().http_port}]
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert probes == {
            "startup": {"path": "/healthz", "port": "http"},
            "liveness": {"path": "/healthz", "port": "http"},
            "readiness": {"path": "/readyz", "port": "http"},
        }

    def test_a_stuck_worker_is_left_to_the_supervisor(self, manifests: list[Manifest], deployment: Manifest) -> None:
        (text,) = one(manifests, "ConfigMap")["data"].values()
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        probe = container["livenessProbe"]
        patience = probe["periodSeconds"] * (probe["failureThreshold"] - 1)
        assert patience > max(tomllib.loads(text)["handler_timeout_seconds"], SILENT_SECONDS)

    def test_one_replica_may_be_missing_and_no_more(self, manifests: list[Manifest], deployment: Manifest) -> None:
        assert deployment["spec"]["replicas"] > 1
        assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1

    def test_only_http_comes_in(self, manifests: list[Manifest]) -> None:
        policy = one(manifests, "NetworkPolicy")["spec"]
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http"]
        assert all(rule["from"] for rule in policy["ingress"])


def test_the_address_comes_from_a_secrets_file() -> None:
    for root in ROOTS:
        for pod in pods(resolve(root)):
            secrets = {volume["name"] for volume in pod["volumes"] if "secret" in volume}
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                variables = {variable["name"]: variable["value"] for variable in container["env"]}
                path = Path(variables["PROJECTIOND_DATABASE_URL_FILE"])
                assert path.name == "database_url"
                mounts = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
                assert mounts[path.parent] in secrets


def test_prometheus_operators_rules_are_our_alerts() -> None:
    (rule,) = read(KUBERNETES / "monitoring" / "prometheus-rule.yaml")
    (alerts,) = read(ROOT / "monitoring" / "alerts.yml")
    assert rule["spec"] == alerts


def test_plugins_in_a_config_map_can_be_loaded() -> None:
    registry = load_projections([KUBERNETES / "overlays" / "plugins-in-configmap" / "projections"], {})
    assert not registry.faults
    assert [definition.name for definition in registry.definitions] == ["order_count"]
