"""What a worker is told at its start."""

from pathlib import Path

from pydantic import SecretStr

from projectiond.processes.wire import Briefing
from projectiond.settings import ProjectionSettings, Settings


def test_a_briefing_comes_back_as_it_was_sent() -> None:
    settings = Settings(
        database_url=SecretStr(f"postgresql://app@db/shop?password={'%2B' * 3}"),
        projections=(Path("a b"), Path("ü")),
        projection={"orders": ProjectionSettings(batch_size=9)},
        poll_interval_seconds=0.25,
    )
    briefing = Briefing(settings, {"orders": 2**62, "sales \n": 7})
    told = Briefing.from_wire(briefing.to_wire())
    assert told == briefing
    assert told.settings.database_dsn() == settings.database_dsn()


def test_a_briefing_is_one_line() -> None:
    line = Briefing(Settings(), {"a\nb\u2028c": 1}).to_wire()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1


def test_a_briefing_does_not_show_the_password_by_its_repr() -> None:
    briefing = Briefing(Settings(database_url=SecretStr("postgresql://app:hunter2@db/shop")), {})
    assert "hunter2" not in repr(briefing)
    assert "hunter2" in briefing.to_wire()
