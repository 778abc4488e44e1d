"""What is in the wheel: all that an installed daemon needs, also when it was built from the sdist."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import projectiond

ROOT = Path(__file__).parents[2]


def build(kind: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    return target / sdist.name.removesuffix(".tar.gz")


@pytest.mark.parametrize("source", ["checkout", "sdist"])
def test_the_wheel_holds_schema_and_sample_projections(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    directory = ROOT if source == "checkout" else request.getfixturevalue("unpacked_sdist")
    with zipfile.ZipFile(build("wheel", directory, tmp_path)) as wheel:
        assert wheel.read("projectiond/schema.sql") == (ROOT / "schema.sql").read_bytes()
        names = wheel.namelist()
        samples = sorted((ROOT / "projections").glob("*.py"))
        assert samples
        for sample in samples:
            assert wheel.read(f"projectiond/demo/projections/{sample.name}") == sample.read_bytes()
        assert "projectiond/py.typed" in names
        pages = sorted((ROOT / "src" / "projectiond" / "http" / "static").iterdir())
        assert pages
        for page in pages:
            assert wheel.read(f"projectiond/http/static/{page.name}") == page.read_bytes()
        assert not [name for name in names if not name.startswith("projectiond")]
        assert not [name for name in names if "__pycache__" in name]


def test_the_version_stands_in_one_place(sdist: Path) -> None:
    assert sdist.name == f"projectiond-{projectiond.__version__}.tar.gz"


def test_decisions_that_the_sources_name_are_there() -> None:
    sources = [ROOT / "schema.sql", *(ROOT / "src").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"docs/adr/[\w.-]*\w", source.read_text())}
    assert named
    assert {name for name in named if not (ROOT / name).is_file()} == set()
