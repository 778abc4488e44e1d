"""The dashboard's server over a real database, asked as its page does, without a browser."""

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from projectiond.http import desk, figures
from projectiond.http.desk import Desk
from tests.support.dashboard import TOKEN, Site, add_letter, add_projection, serving
from tests.support.events import append_many
from tests.support.postgres import Database
from tests.support.queries import value

pytestmark = [pytest.mark.integration, pytest.mark.any_server]

HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    with serving(database, "orders") as site:
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{site.url}dashboard/", headers=HEADERS, timeout=20) as client:
        yield client


def ask(client: httpx.Client, path: str) -> tuple[int, dict[str, Any]]:
    answer = client.post(f"projections/{path}", json={})
    return answer.status_code, answer.json()


def row(site: Site, name: str = "orders") -> tuple[Any, ...]:
    statement = "SELECT status, error_message FROM projection_checkpoints WHERE projection_name = %s"
    (found,) = site.conn.execute(statement, (name,)).fetchall()
    return tuple(found)


def test_pause_resume_and_rebuild_do_what_the_commands_do(site: Site, client: httpx.Client) -> None:
    add_projection(site.conn, "orders", 7)
    assert ask(client, "orders/pause") == (200, {"result": "orders is paused at 7"})
    assert ask(client, "orders/pause") == (200, {"result": "orders was paused already"})
    site.conn.execute("UPDATE projection_checkpoints SET error_message = 'x'")
    assert ask(client, "orders/resume") == (200, {"result": "orders goes on at 7"})
    assert row(site) == ("running", None)
    assert ask(client, "orders/resume") == (200, {"result": "orders was not paused"})
    assert "is being rebuilt, from the first event" in ask(client, "orders/rebuild")[1]["result"]
    assert "is being rebuilt again" in ask(client, "orders/rebuild")[1]["result"]
    assert row(site) == ("rebuilding", None)


def test_one_that_has_not_begun_can_be_paused_and_an_unknown_one_not(site: Site, client: httpx.Client) -> None:
    # This daemon has a plugin of that name.
    assert ask(client, "orders/pause")[0] == 200
    assert row(site) == ("paused", None)
    assert ask(client, "order/pause") == (404, {"error": "there is no such projection", "hint": ""})
    assert value(site.conn, "SELECT count(*) FROM projection_checkpoints") == 1


def test_dead_letters_are_shown_retried_and_discarded(site: Site, client: httpx.Client) -> None:
    add_projection(site.conn, "orders", 9)
    for number in (3, 4):
        add_letter(site.conn, "orders", number, {"text": "x" * 30_000})
    details = client.get("projections/orders/details").json()
    assert [(letter["sequence_number"], letter["state"]) for letter in details["letters"]] == [(3, "kept"), (4, "kept")]
    data = client.get("projections/orders/dead-letters/3").json()
    assert (len(data["text"]), data["length"], data["is_cut"]) == (20_000, 30_012, True)
    assert ask(client, "orders/dead-letters/3/retry")[0] == 200
    assert ask(client, "orders/dead-letters/4/discard") == (200, {"result": "the letter of event 4 is discarded"})
    # Not what was kept for a moment.
    details = client.get("projections/orders/details").json()
    assert [(letter["sequence_number"], letter["state"]) for letter in details["letters"]] == [(3, "to be tried again")]
    for action in ("retry", "discard"):
        status, shape = ask(client, f"orders/dead-letters/4/{action}")
        assert (status, shape["error"]) == (404, "orders has no dead letter of event 4 any more")


def test_the_details_have_rebuilds_and_what_built_the_tables(site: Site, client: httpx.Client) -> None:
    add_projection(site.conn, "orders", 9)
    assert client.get("projections/orders/details").json()["build"] is None
    site.conn.execute(
        "INSERT INTO projection_rebuild_history VALUES ('orders', now() - interval '9 s', now(), 9, 'merge',"
        """ '[{"table": "orders", "total": 5, "changed": 1, "added": 2, "removed": 0, "kept": 0}]')"""
    )
    site.conn.execute(
        "INSERT INTO projection_builds (projection_name, fingerprint, digest, met_digest, built_by, events_per_second)"
        " VALUES ('orders', '{}', 'a', 'b', 'rebuilt', 2000)"
    )
    site.server._dashboard._details.forget("orders")
    details = client.get("projections/orders/details").json()
    assert (details["build"]["is_changed"], details["build"]["events_per_second"]) == (True, 2000)
    (rebuild,) = details["rebuilds"]
    assert (rebuild["position"], rebuild["method"], rebuild["tables"][0]["added"]) == (9, "merge", 2)


def test_the_stores_figures_are_counted_once_for_all(
    site: Site, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_many(site.conn, 5)
    first = client.get("store").json()
    assert (first["per_day"][0]["events"], len(first["per_day"]), first["error"]) == (5, figures.DAYS, "")
    assert [aggregate["events"] for aggregate in first["most_active"]] == [5]
    append_many(site.conn, 5)
    assert client.get("store").json()["per_day"] == first["per_day"]
    # A count that fails leaves the last one, and is not made again at once.
    monkeypatch.setattr(site.server._dashboard._figures, "_next_at", 0.0)
    site.conn.execute("ALTER TABLE event_store RENAME TO gone")
    failed = client.get("store").json()
    assert failed["per_day"] == first["per_day"]
    assert "event_store" in failed["error"]
    site.conn.execute("ALTER TABLE gone RENAME TO event_store")
    assert client.get("store").json()["error"] == failed["error"]


def test_a_desk_goes_on_after_the_server_has_ended_its_session(site: Site, client: httpx.Client) -> None:
    add_projection(site.conn, "orders", 7)
    assert ask(client, "orders/pause")[0] == 200
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '%%http-desk%%'"
    assert value(site.conn, ended) == 1
    assert ask(client, "orders/resume") == (200, {"result": "orders goes on at 7"})


def test_who_waits_too_long_is_told_and_what_was_given_up_is_not_done_later(
    site: Site, client: httpx.Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_projection(site.conn, "orders", 7)
    monkeypatch.setattr(desk, "PATIENCE_SECONDS", 0.3)
    done: list[str] = []
    monkeypatch.setattr(Desk, "_answer", _noting(done, Desk._answer))
    with database.connect() as other, other.transaction():
        other.execute("SELECT FROM projection_checkpoints FOR UPDATE")
        answers = [ask(client, "orders/pause"), ask(client, "orders/rebuild")]
    assert [status for status, _ in answers] == [503, 503]
    assert "it has not within 0.3 s" in answers[0][1]["error"]
    # The first was under way; the second never began.
    monkeypatch.setattr(desk, "PATIENCE_SECONDS", 10)
    assert ask(client, "orders/pause")[0] == 200
    assert len(done) == 2
    assert row(site)[0] == "paused"


def _noting(done: list[str], answer: Any) -> Any:  # noqa: ANN401 -- a method
    def noted(self: Desk, asked: Any) -> None:  # noqa: ANN401 -- a private class
        done.append("")
        answer(self, asked)

    return noted


def test_a_statement_that_takes_too_long_is_ended_and_told(site: Site, client: httpx.Client) -> None:
    add_projection(site.conn, "orders", 7)

    def sleep(db: psycopg.Connection[Any]) -> None:
        db.execute("SET statement_timeout = 50")
        db.execute("SELECT pg_sleep(5)")

    site.server._dashboard._details._kept.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projectiond.http.details._read", lambda db, _name: sleep(db))
        answer = client.get("projections/orders/details")
    assert answer.status_code == 503
    assert "statement timeout" in answer.json()["error"]
