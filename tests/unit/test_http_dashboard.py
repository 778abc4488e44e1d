"""The dashboard without a browser or a database: who may do what, what is sent to whom, and what a page may load."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr
from starlette.requests import Request

from projectiond.errors import DatabaseUnavailableError
from projectiond.http import stream
from projectiond.http.board import make_board
from projectiond.http.dashboard import Dashboard
from projectiond.http.headers import SECURITY_HEADERS
from projectiond.http.health import Health
from projectiond.http.history import SAMPLES, History
from projectiond.http.readings import Reading
from projectiond.http.routes import Routes
from projectiond.http.stream import Stream
from projectiond.leases.roster import LiveWorker
from projectiond.operating.overview import Hold, RebuildState, RunnerState
from projectiond.processes.counters import State
from projectiond.processes.recorder import Recorder
from projectiond.settings import Settings
from tests.support.dashboard import HOSTILE, TOKEN
from tests.support.http import FakeReadings, FakeVigil, FakeWaiters, crew_of, page_of, reading_of, state_of

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
STATIC = files("projectiond.http") / "static"
PAUSE = "/dashboard/projections/orders/pause"
RIGHT = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


def worker_of(*names: str, version: str = "1.0") -> LiveWorker:
    return LiveWorker(7, "web-1", 4711, 2, version, names, NOON, dict.fromkeys(names, NOON))


class StubDesk:
    """Answers without a database; keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[Callable[..., Any]] = []
        self.answer: Any = "done"

    async def ask(self, question: Callable[..., Any]) -> Any:  # noqa: ANN401 -- whatever the test wants
        self.asked.append(question)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def stop(self) -> None:
        pass


@dataclass
class Site:
    """The application with a dashboard."""

    token: str | None = TOKEN
    desk: StubDesk = field(default_factory=StubDesk)

    def ask(self, path: str, method: str = "GET", headers: Any = None, content: bytes = b"") -> httpx.Response:  # noqa: ANN401
        settings = Settings(http_token=None if self.token is None else SecretStr(self.token))
        crew, readings, vigil = crew_of(page_of("orders")), FakeReadings(reading_of(state_of())), FakeVigil()
        health = Health(lambda: crew, vigil, readings)  # type: ignore[arg-type]
        dashboard = Dashboard(settings, lambda: crew, health, readings)  # type: ignore[arg-type]
        dashboard._desk = self.desk  # type: ignore[assignment]
        routes = Routes(lambda: crew, health, readings, FakeWaiters(), dashboard.routes())  # type: ignore[arg-type]

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(routes.application(), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://daemon:8790") as client:
                return await client.request(method, path, headers=headers, content=content)

        return asyncio.run(ask())


@pytest.fixture
def site() -> Site:
    return Site()


class TestToken:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 401),
            ({"Authorization": f"Bearer {TOKEN}x"}, 401),
            ({"Authorization": f"Basic {TOKEN}"}, 401),
            ({"Authorization": "Bearer"}, 401),
            ({"Authorization": b"Bearer \xff\xfe"}, 401),
            ({"Origin": "http://elsewhere"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://daemon:8791"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": "none"}, 403),
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ],
    )
    @pytest.mark.parametrize("path", [PAUSE, "/dashboard/projections/orders/dead-letters/7/retry"])
    def test_without_it_or_from_elsewhere_nothing_is_done(
        self, site: Site, path: str, headers: dict[str, Any], status: int
    ) -> None:
        whole = {**RIGHT, **headers} if headers else {"Content-Type": "application/json"}
        answer = site.ask(path, "POST", whole, b"{}")
        assert (answer.status_code, site.desk.asked) == (status, [])
        assert TOKEN not in answer.text

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"Origin": "http://daemon:8790", "Sec-Fetch-Site": "same-origin"},
            {"Origin": "https://daemon:8790"},
            {"Authorization": f"bearer {TOKEN}", "Content-Type": "application/json; charset=utf-8"},
        ],
    )
    def test_with_it_the_action_is_done(self, site: Site, more: dict[str, str]) -> None:
        answer = site.ask(PAUSE, "POST", {**RIGHT, **more}, b"{}")
        assert (answer.status_code, answer.json(), len(site.desk.asked)) == (200, {"result": "done"}, 1)

    @pytest.mark.parametrize(("content", "status"), [(b"[]", 400), (b"{", 400), (b" " * 5000, 413), (b"", 200)])
    def test_what_is_no_small_json_object_is_refused(self, site: Site, content: bytes, status: int) -> None:
        assert site.ask(PAUSE, "POST", RIGHT, content).status_code == status

    def test_while_none_is_set_nobody_may(self, site: Site) -> None:
        site.token = None
        for headers in (RIGHT, {**RIGHT, "Authorization": "Bearer "}, {**RIGHT, "Authorization": "Bearer None"}):
            answer = site.ask(PAUSE, "POST", headers, b"{}")
            assert (answer.status_code, site.desk.asked) == (403, [])
            assert "http_token is not set" in answer.json()["error"]

    def test_what_is_in_events_is_shown_with_it_only(self, site: Site) -> None:
        letter = "/dashboard/projections/orders/dead-letters/7"
        assert site.ask(letter).status_code == 401
        assert site.desk.asked == []
        site.desk.answer = None
        assert site.ask(letter, headers=RIGHT).status_code == 404
        for number in ("9" * 19, "7" * 30, "7" * 5000, "-7", "%D9%A7"):
            assert site.ask(letter.replace("7", number), headers=RIGHT).status_code == 404

    @pytest.mark.parametrize("action", ["pause", "resume", "rebuild", "dead-letters/7/retry", "dead-letters/7/discard"])
    def test_a_change_is_asked_for_by_post_only(self, site: Site, action: str) -> None:
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            answer = site.ask(f"/dashboard/projections/orders/{action}", method, RIGHT)
            assert (answer.status_code, site.desk.asked) == (405, [])

    def test_a_database_that_does_not_answer_is_told(self, site: Site) -> None:
        site.desk.answer = DatabaseUnavailableError("the database does not answer: gone", hint="try again in a moment")
        for answer in (
            site.ask(PAUSE, "POST", RIGHT, b"{}"),
            site.ask("/dashboard/projections/orders/details"),
            site.ask("/dashboard/projections/orders/dead-letters/7", headers=RIGHT),
        ):
            assert (answer.status_code, answer.json()["error"]) == (503, "the database does not answer: gone")

    @pytest.mark.parametrize("name", ["orders/pause", "a\nb", HOSTILE, "dead-letters/7/retry"])
    def test_a_name_is_whatever_it_is(self, site: Site, name: str) -> None:
        path = f"/dashboard/projections/{quote(name, safe='')}"
        assert site.ask(f"{path}/pause", "POST", RIGHT).status_code == 200
        site.desk.answer = {"name": name}
        assert site.ask(f"{path}/details").json()["name"] == name


class TestPage:
    def test_who_wants_html_gets_the_page_and_programs_the_list(self, site: Site) -> None:
        page = site.ask("/", headers={"Accept": "text/html,application/xhtml+xml"})
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "endpoints" in site.ask("/").json()
        assert "endpoints" in site.ask("/", headers={"Accept": "application/json"}).json()

    def test_it_may_load_nothing_from_elsewhere_and_run_nothing_inline(self, site: Site) -> None:
        page = site.ask("/", headers={"Accept": "text/html"})
        policy = page.headers["Content-Security-Policy"]
        for part in (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ):
            assert part in policy
        assert "unsafe" not in policy
        for name, text in SECURITY_HEADERS.items():
            if name not in {"Content-Security-Policy", "Cache-Control"}:
                assert page.headers[name] == text

    def test_its_files_are_given_by_name_and_kept_by_the_browser(self, site: Site) -> None:
        for file in STATIC.iterdir():
            answer = site.ask(f"/static/{file.name}")
            assert (answer.status_code, answer.content) == (200, file.read_bytes())
            again = site.ask(f"/static/{file.name}", headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        for name in ("nothing.js", "..%2fpage.py", "%2e%2e/page.py", "__init__.py"):
            assert site.ask(f"/static/{name}").status_code == 404

    def test_everything_that_it_names_is_there_and_ours(self) -> None:
        names = {file.name for file in STATIC.iterdir()}
        texts = {name: (STATIC / name).read_text(encoding="utf-8") for name in names}
        named = set(re.findall(r'(?:src|href)="static/([^"]+)"', texts["index.html"]))
        named |= {name for text in texts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
        assert named == names - {"index.html"}
        ids = set(re.findall(r'\bid="([^"]+)"', texts["index.html"]))
        for name, text in texts.items():
            assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= ids
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), (
                name
            )
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
            assert not re.search(r'\sstyle="|\son\w+="', text), name


def running_history(work: Callable[[Recorder], object]) -> tuple[History, Any]:
    return History(), crew_of(page_of("orders", work=work))


class TestHistory:
    def test_lag_and_rate_of_our_own_come_from_memory(self) -> None:
        reading = Reading()
        history = History()
        for second, (mark, position, events) in enumerate([(10, 10, 0), (50, 20, 10), (60, 60, 50)]):

            def work(recorder: Recorder, *, at: int = position, upto: int = mark, done: int = events) -> None:
                recorder.worker.note_look(upto, is_held=False, has_moved=True)
                counters = recorder.slot(0, "orders").counters
                counters.note_state(State.WORKING, at)
                counters.note_commit(done, 0.0, [])

            history.sample(crew_of(page_of("orders", work=work)), reading, second * 5.0)
        course = history.course("orders")
        assert (list(course.lags), course.rate) == ([0, 30, 0], 5.0)

    def test_of_others_it_comes_from_a_fresh_reading_and_is_not_known_without(self) -> None:
        history, crew = running_history(lambda _: None)
        reading = reading_of(state_of(lag=7, events_processed=40), state_of("other", lag=3), read_at=100.0)
        history.sample(crew, reading, 101.0)
        history.sample(crew, reading, 200.0)
        assert history.lags() == {"orders": [7, None], "other": [3, None]}
        assert history.course("orders").rate is None

    def test_it_is_bounded_and_forgets_who_is_gone(self) -> None:
        history, crew = running_history(lambda _: None)
        for second in range(SAMPLES + 5):
            history.sample(crew, reading_of(state_of("other")), float(second))
        assert len(history.course("other").lags) == SAMPLES
        history.sample(crew, reading_of(), 0.0)
        assert "other" not in history.lags()

    def test_an_error_is_kept_once_as_long_as_it_lasts(self) -> None:
        history = History()
        for text in ("a", "a", "b", None, "b"):
            history.note_errors(reading_of(state_of(error_message=text)))
        assert [error.text for error in history.course("orders").errors] == ["a", "b", "b"]


class TestBoard:
    def test_an_entry_stays_the_same_while_nothing_happens(self) -> None:
        crew, history = crew_of(page_of("orders")), History()
        boards = [
            make_board(crew, reading_of(state_of(seconds_since_processed=float(age))), history, [], float(age))
            for age in (5, 6)
        ]
        assert boards[0].projections == boards[1].projections
        assert boards[0].store["age_seconds"] != boards[1].store["age_seconds"]

    def test_who_runs_what_since_when_is_in_it(self) -> None:
        workers = [worker_of("a", "b"), worker_of(*(f"p{number}" for number in range(30)), version="2.0")]
        runner = RunnerState("web-1", 4711, 2, "1.0", NOON)
        reading = reading_of(state_of("a", runner=runner), state_of("b"), roster=workers)
        board = make_board(crew_of(None), reading, History(), [], 1.0)
        assert board.projections["a"]["runner"] == {
            "worker": 2,
            "host": "web-1",
            "process_id": 4711,
            "version": "1.0",
            "since": NOON.timestamp(),
        }
        assert board.projections["b"]["runner"] is None
        first, second = board.roster["workers"]
        assert (first["host"], first["runs"], first["runs_more"], first["can_run"]) == ("web-1", ["a", "b"], 0, 2)
        assert (len(second["runs"]), second["runs_more"]) == (20, 10)
        assert "workers of several versions" in board.roster["differences"][0]

    def test_it_is_json_whatever_is_in_it(self) -> None:
        rebuild = RebuildState("beside", 5, 0.5, 60.4, is_paused=False, error_message=HOSTILE)
        reading = reading_of(state_of(name=HOSTILE, error_message=HOSTILE, lag_seconds=None, rebuild=rebuild))
        assert reading.overview is not None
        hold = Hold(41, [HOSTILE] * 9, ["SELECT 1"] * 9)
        object.__setattr__(reading.overview, "hold", hold)
        board = make_board(crew_of(page_of("orders")), reading, History(), [], 1.0)
        text = json.dumps([dict(board.store), dict(board.projections)])
        assert not set("".join(board.store["hold"]["holders"])) & set("\u202e\u2066\x1b\n")
        assert (len(board.store["hold"]["holders"]), board.store["hold"]["more"]) == (5, 4)
        assert text.isascii()


@dataclass
class Source:
    """A stream over readings that the test makes."""

    readings: FakeReadings = field(default_factory=lambda: FakeReadings(reading_of(state_of())))

    def __post_init__(self) -> None:
        self.history = History()
        self.stream = Stream(
            lambda: crew_of(None),
            Health(lambda: crew_of(None), FakeVigil(), self.readings),  # type: ignore[arg-type]
            self.readings,  # type: ignore[arg-type]
            self.history,
            is_steerable=True,
        )

    async def view(self) -> AsyncIterator[bytes]:
        """Look on, as the response does."""
        self.stream._viewers += 1
        try:
            async for message in self.stream._messages():
                yield message
        finally:
            self.stream._leave()


async def message_of(view: AsyncIterator[bytes]) -> tuple[str, dict[str, Any]]:
    text = (await asyncio.wait_for(anext(view), 10)).decode()
    found = re.fullmatch(r"event: (\w+)\ndata: (.*)\n\n", text)
    assert found, text
    return found[1], json.loads(found[2])


class TestStream:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "TICK_SECONDS", 0.01)

    def test_the_whole_picture_comes_first_and_then_what_has_changed(self) -> None:
        async def look() -> None:
            source = Source(FakeReadings(reading_of(state_of("a"), state_of("b"))))
            view = source.view()
            kind, shape = await message_of(view)
            assert (kind, [p["name"] for p in shape["projections"]]) == ("picture", ["a", "b"])
            assert shape["server"]["is_steerable"]
            kind, shape = await message_of(view)
            assert (kind, shape["changed"], shape["gone"]) == ("change", [], [])
            assert "roster" not in shape
            source.readings.reading = reading_of(state_of("a", lag=5))
            while not shape["changed"]:
                kind, shape = await message_of(view)
            assert ([p["name"] for p in shape["changed"]], shape["gone"]) == (["a"], ["b"])
            source.readings.reading = reading_of(state_of("a", lag=5), roster=[worker_of("a")])
            while "roster" not in shape:
                kind, shape = await message_of(view)
            assert [worker["runs"] for worker in shape["roster"]["workers"]] == [["a"]]
            assert shape["changed"] == []
            await view.aclose()  # type: ignore[attr-defined]

        asyncio.run(look())

    def test_all_viewers_share_one_source_and_it_ends_with_the_last(self) -> None:
        async def look() -> None:
            source = Source()
            views = [source.view() for _ in range(5)]
            for view in views:
                assert (await message_of(view))[0] == "picture"
            asked = source.readings.asked
            for _ in range(3):
                for view in views:
                    await message_of(view)
            assert source.readings.asked - asked <= 6
            for view in views:
                await view.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)
            assert source.stream._ticking is not None
            assert source.stream._ticking.done()

        asyncio.run(look())

    def test_who_is_slow_gets_the_whole_picture_again(self) -> None:
        async def look() -> None:
            source = Source()
            view, other = source.view(), source.view()
            await message_of(view)
            for _ in range(4):
                await message_of(other)
            assert (await message_of(view))[0] == "picture"

        asyncio.run(look())

    def test_it_ends_by_itself_and_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "STREAM_SECONDS", 0.05)

        async def look() -> list[str]:
            view = Source().view()
            return [(await message_of(view))[0] for _ in range(3)] + [
                re.match(rb"event: (\w+)", part)[1].decode()  # type: ignore[index]
                async for part in view
            ]

        kinds = asyncio.run(look())
        assert kinds[-1] == "over"
        assert kinds.count("over") == 1

    def test_no_more_than_some_may_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "MOST_VIEWERS", 1)

        async def look() -> None:
            source = Source()
            get, head = (Request({"type": "http", "method": method}) for method in ("GET", "HEAD"))
            # Nobody has been sent anything yet.
            answers = [await source.stream.open(get) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 503]
            # Which a page asks for to know why.
            assert (await source.stream.open(head)).status_code == 503
            source.stream._leave()
            answer = await source.stream.open(head)
            assert (answer.status_code, answer.body) == (200, b"")

        asyncio.run(look())

    def test_hostile_text_cannot_end_a_message(self) -> None:
        async def look() -> None:
            state = state_of(name=HOSTILE, error_message=HOSTILE)
            kind, shape = await message_of(Source(FakeReadings(reading_of(state))).view())
            assert (kind, shape["projections"][0]["name"]) == ("picture", HOSTILE)

        asyncio.run(look())
