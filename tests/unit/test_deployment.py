"""What Dockerfile and systemd units promise: no root, signals reach the daemon, and time enough to drain."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from projectiond.cli import health
from projectiond.settings import Settings
from projectiond.settings_secrets import file_setting

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
GUIDE = ROOT / "docs" / "deployment.md"
UNITS = [ROOT / "systemd" / "projectiond.service", ROOT / "systemd" / "projectiond@.service"]
DRAIN_SECONDS = Settings.model_fields["drain_seconds"].default

SYSTEMD_ANALYZE = shutil.which("systemd-analyze") or ""

needs_systemd = pytest.mark.skipif(not SYSTEMD_ANALYZE, reason="systemd-analyze is not installed")
unit_files = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)


def instructions(stage: int) -> list[tuple[str, str]]:
    """Return the instructions of one stage of the Dockerfile and their arguments; -1 is what the image is."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    logical = "\n".join(lines).replace("\\\n", " ").splitlines()
    stages: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, logical)):
        name, _, argument = line.partition(" ")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((name, argument.strip()))
    return stages[stage]


def argument_of(name: str) -> str:
    """Return the argument of the one instruction of this name in the image's stage."""
    (argument,) = [argument for instruction, argument in instructions(-1) if instruction == name]
    return argument


def assignments(unit: Path, section: str) -> dict[str, list[str]]:
    """Return what a section of a unit assigns; a key may occur more than once, and each counts."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in unit.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            current = header[1]
        elif current == section and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_image_runs_without_root_under_a_number_that_kubernetes_can_check() -> None:
    user, _, group = argument_of("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_daemon_is_the_process_that_docker_signals() -> None:
    # The shell form would put a shell in front, and SIGTERM would never arrive; env becomes what it starts. What comes
    # before there is a handler is kept: tests/acceptance/test_signals.py.
    assert argument_of("ENTRYPOINT") == '["env", "--block-signal=TERM", "projectiond"]'
    assert argument_of("CMD") == '["run"]'
    assert argument_of("STOPSIGNAL") == "SIGTERM"


def test_both_stages_are_made_from_one_pinned_version() -> None:
    (base,) = re.findall(r"^ARG BASE=(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert [instructions(stage)[0] for stage in (0, -1)] == [("FROM", "${BASE} AS build"), ("FROM", "${BASE}")]


def test_the_image_asks_for_its_health_at_the_address_of_the_settings() -> None:
    check = argument_of("HEALTHCHECK")
    assert json.loads(check[check.index("CMD ") + 4 :]) == ["projectiond", "health"]
    (patience,) = re.findall(r"--timeout=(\d+)s", check)
    assert int(patience) > health.PATIENCE_SECONDS
    configuration = tomllib.loads((ROOT / "config" / "production.toml").read_text())
    assert configuration["http_port"] == Settings().http_port


def test_the_image_is_made_without_build_tools() -> None:
    copied = [argument for name, argument in instructions(-1) if name == "COPY"]
    assert "--from=build /opt/projectiond /opt/projectiond" in copied
    commands = " ".join(argument for name, argument in instructions(-1) if name == "RUN")
    assert not re.search(r"\b(pip|apt-get|apk)\b", commands)


def test_the_image_takes_versions_from_the_constraints() -> None:
    (install,) = [argument for name, argument in instructions(0) if name == "RUN" and "pip install" in argument]
    assert "--constraint constraints.txt" in install


def test_the_image_requires_a_database_and_writes_nowhere_but_to_memory() -> None:
    environment = dict(re.findall(r"(\w+)=(\S+)", argument_of("ENV")))
    assert environment["TMPDIR"] == "/dev/shm"  # noqa: S108 -- it is the promise
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert argument_of("WORKDIR") == "/app"
    config = ROOT / Path(environment["PROJECTIOND_CONFIG"]).relative_to("/app")
    assert tomllib.loads(config.read_text())["require_database_url"] is True


def test_what_the_dockerfile_copies_is_let_into_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    sources = [
        source.removeprefix("./")
        for stage in (0, -1)
        for name, argument in instructions(stage)
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert f"!{source}" in ignored
        assert (ROOT / source).exists()


@unit_files
def test_a_unit_grants_more_time_than_the_drain_takes(unit: Path) -> None:
    (granted,) = assignments(unit, "Service")["TimeoutStopSec"]
    with (ROOT / "config" / "production.toml").open("rb") as file:
        production = tomllib.load(file)["drain_seconds"]
    assert int(granted) > DRAIN_SECONDS
    assert int(granted) > production


def test_the_guide_grants_containers_more_time_than_the_drain_takes() -> None:
    granted = re.findall(r"(?:--stop-timeout |stop_grace_period: )(\d+)", GUIDE.read_text())
    assert len(granted) == 2
    assert all(int(seconds) > DRAIN_SECONDS for seconds in granted)


@unit_files
def test_a_unit_hears_from_the_supervisor_and_signals_it_alone(unit: Path) -> None:
    service = assignments(unit, "Service")
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert int(service["WatchdogSec"][0]) > 0
    # control-group would send SIGTERM to the workers too, who are the supervisor's to drain.
    assert service["KillMode"] == ["mixed"]


@unit_files
def test_a_unit_starts_again_for_as_long_as_the_database_is_away(unit: Path) -> None:
    service = assignments(unit, "Service")
    assert service["Restart"] == ["on-failure"]
    # To systemd the daemon's end by it is no failure, so one stray signal would be the end for good.
    assert service["RestartForceExitStatus"] == ["SIGHUP"]
    assert assignments(unit, "Unit")["StartLimitIntervalSec"] == ["0"]


@unit_files
def test_a_worker_that_takes_all_memory_does_not_end_the_supervisor_with_it(unit: Path) -> None:
    assert assignments(unit, "Service")["OOMPolicy"] == ["continue"]


@unit_files
def test_a_unit_gives_no_rights_away(unit: Path) -> None:
    service = assignments(unit, "Service")
    assert service["DynamicUser"] == ["yes"]
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["CapabilityBoundingSet"] == [""]


@unit_files
def test_a_unit_has_the_address_from_a_credential(unit: Path) -> None:
    service = assignments(unit, "Service")
    (credential,) = service["LoadCredential"]
    name, _, path = credential.partition(":")
    assert f"PROJECTIOND_{file_setting(name).upper()}=%d/{name}" in service["Environment"]
    assert path in unit.read_text().partition("[Unit]")[0]
    assert path.replace("%i", "shop") in GUIDE.read_text()


@needs_systemd
@unit_files
def test_systemd_finds_no_fault_in_a_unit(unit: Path, tmp_path: Path) -> None:
    # What is not installed here, a credential too, is not looked for.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/projectiond/bin/projectiond", "/bin/true"))
    done = subprocess.run(
        [SYSTEMD_ANALYZE, "verify", "--man=no", copy], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@unit_files
def test_systemd_rates_a_units_exposure_as_ok_or_better(unit: Path) -> None:
    # 2.0 of 10; above it the word would be "medium".
    subprocess.run(
        [SYSTEMD_ANALYZE, "security", "--offline=true", "--no-pager", "--threshold=20", unit],
        capture_output=True,
        check=True,
        timeout=30,
    )


def test_the_template_differs_from_the_unit_in_its_instance_only() -> None:
    unit, template = (assignments(path, "Service") for path in UNITS)
    assert template["ExecStart"] == [unit["ExecStart"][0].replace("production.toml", "%i.toml")]
    assert template["EnvironmentFile"] == [*unit["EnvironmentFile"], "-/etc/projectiond/%i.environment"]
    assert template["LoadCredential"] == [unit["LoadCredential"][0].replace("projectiond/", "projectiond/%i.")]
    for service in (unit, template):
        del service["ExecStart"], service["EnvironmentFile"], service["LoadCredential"]
    assert template == unit
