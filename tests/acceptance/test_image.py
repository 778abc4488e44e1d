"""What the Dockerfile does, played without Docker: the wheel in an environment of its own, read-only, without root.

The user is that of the tests' servers instead of 10001, who could not reach their sockets.
"""

import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.events import append
from tests.support.http import free_port
from tests.support.postgres import Database
from tests.support.queries import value
from tests.support.scratch import server_user
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.any_server, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


class Image:
    """A directory that is laid out like the image, and whoever runs it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "opt" / "projectiond" / "bin"
        self.app = directory / "app"
        self.user = {name: value for name, value in server_user().items() if name != "cwd"}
        declared = re.findall(r"^ENV (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)[0]
        self.environment = dict(re.findall(r"(\w+)=(\S+)", declared.replace("/app/", f"{self.app}/")))
        self.environment["PATH"] = f"{self.bin}:/usr/bin:/bin"

    def build(self, wheel: Path, python: Path) -> None:
        subprocess.run([python, "-m", "venv", "--without-pip", self.bin.parent], check=True, timeout=60)
        (packages,) = (self.bin.parent / "lib").glob("python*/site-packages")
        # What the wheel depends on comes from the tests' own environment, whose editable projectiond does not.
        (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        subprocess.run([*command, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True, timeout=60)
        for source in re.findall(r"^COPY (config|projections) \./\1$", DOCKERFILE.split("\nFROM ")[-1], re.MULTILINE):
            shutil.copytree(ROOT / source, self.app / source, ignore=shutil.ignore_patterns("__pycache__"))
        for path in [self.directory, *self.directory.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)

    def files(self) -> set[Path]:
        return set(self.directory.rglob("*"))

    def start(self, *words: str, **settings: object) -> "subprocess.Popen[str]":
        variables = {f"PROJECTIOND_{name.upper()}": str(setting) for name, setting in settings.items()}
        return subprocess.Popen(
            [self.bin / "projectiond", *words],
            cwd=self.app,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self.user,
        )

    def run(self, *words: str, **settings: object) -> tuple[int, str]:
        with self.start(*words, **settings) as process:
            out, _ = process.communicate(timeout=60)
        return process.returncode, out


@pytest.fixture
def image(tmp_path: Path) -> Image:
    python = _python_for_everybody()
    if python is None or not all(_is_open(Path(path)) for path in site.getsitepackages()):
        pytest.skip("another user can reach no Python of this version, or not what is installed for it")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = (tmp_path / "dist").iterdir()
    image = Image(tmp_path / "image")
    image.build(wheel, python)
    # pytest's own directories, one more of them for each process of tests, are for its user alone.
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory.is_relative_to(tempfile.gettempdir()):
            directory.chmod(directory.stat().st_mode | 0o011)
    return image


def _python_for_everybody() -> Path | None:
    """Return a Python of this version that the image's user may enter too; root's own often lies in root's home."""
    name = f"python3.{sys.version_info.minor}"
    places = (Path(sys.executable).resolve(), Path("/usr/local/bin", name), Path("/usr/bin", name))
    return next((path for path in places if path.exists() and (os.geteuid() != 0 or _is_open(path))), None)


def _is_open(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def test_the_image_runs_as_its_user_on_a_tree_that_cannot_be_written(
    image: Image, database: Database, tmp_path: Path
) -> None:
    secret = tmp_path / "database_url"
    secret.write_text(database.dsn)
    settings = {"database_url_file": secret, "http_port": free_port()}
    before = image.files()

    code, out = image.run("check")
    assert code == 1
    assert "database_url is not set, but require_database_url is true" in out
    code, out = image.run("init", **settings)
    assert code == 0, out
    code, out = image.run("check", **settings)
    assert code == 0, out
    code, out = image.run("health", **settings)
    assert (code, "no daemon answers" in out) == (1, True)

    with image.start("run", **settings) as daemon, database.connect() as conn:
        try:
            eventually(lambda: image.run("health", **settings) == (0, "ok\n"), 30)
            append(conn, "OrderPlaced", {"customer": "Ada", "currency": "EUR"})
            eventually(lambda: value(conn, "SELECT min(last_sequence_number) FROM projection_checkpoints") == 1, 30)
        finally:
            daemon.terminate()
        out, _ = daemon.communicate(timeout=40)
    assert daemon.returncode == 0, out
    assert image.files() == before
