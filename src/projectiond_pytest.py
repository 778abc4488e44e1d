"""The pytest plugin of projectiond: the fixture `projection_tester`.

pytest imports every plugin that is installed, in every run. So this is a module of its own, outside of the package,
and imports nothing of it before a test asks for the fixture: who does not use it does not wait for it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projectiond.testing import MakeTester
    from projectiond.testing.server import TestServer


@pytest.fixture(scope="session")
def _projectiond_server() -> Iterator[TestServer]:
    """Run, or take into use, the server of this run of tests."""
    from projectiond.errors import ProjectiondError  # noqa: PLC0415 - see above
    from projectiond.testing.server import running_server  # noqa: PLC0415 - the same

    with contextlib.ExitStack() as exits:
        try:
            server = exits.enter_context(running_server())
        except ProjectiondError as error:
            # Not skipped: a test that is never run looks like one that passes.
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture
def projection_tester(_projectiond_server: TestServer, request: pytest.FixtureRequest) -> Iterator[MakeTester]:
    """Make testers for the projections of a test: give a class, or the path of a plugin's file."""
    from projectiond.testing.tester import Testers  # noqa: PLC0415 - see above

    with Testers(_projectiond_server, request.path.parent) as make_tester:
        yield make_tester
