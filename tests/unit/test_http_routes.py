"""What is answered: statuses, shapes, headers; and that nothing hostile or secret gets into an answer."""

import asyncio
import os
import re
import time
from dataclasses import replace
from urllib.parse import quote, urljoin

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import Response

from projectiond.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    ProjectiondError,
    ProjectionPausedError,
    WaitTimeoutError,
)
from projectiond.http.crew import Builder
from projectiond.http.families import FAMILIES
from projectiond.http.headers import SECURITY_HEADERS
from projectiond.http.readings import Reading
from projectiond.http.vigil import Fault
from projectiond.http.waiters import Outcome, TooManyWaitersError
from projectiond.operating.overview import Hold, RebuildState
from projectiond.processes.counters import Count, State, Timing, Wakeup
from projectiond.processes.recorder import Recorder
from projectiond.settings import Settings
from tests.support.http import FakeReadings, FakeWaiters, Site, crew_of, page_of, reading_of, state_of

STALLED = Fault("projection", "orders", 1, "it stands at 41, and there is more to apply", 130.04)
STUCK = Fault("supervisor", "", None, "the supervisor's loop does not turn", 31.0)
API = "/api/v1/projections"

# What a psycopg text, a plugin's file name or a row written by hand may hold.
REBUILD = RebuildState("beside", 10, 0.25, None, is_paused=False, error_message="no privilege")
HOSTILE = 'a"b\\c\n\r\x1b[31m\x00\u202e\udc80</script>{}'


@pytest.fixture
def site() -> Site:
    return Site()


class TestHeaders:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 200),
            ("GET", "/healthz", 200),
            ("HEAD", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/metrics", 200),
            ("GET", API, 200),
            ("GET", "/api/projections", 307),
            ("GET", "/nowhere", 404),
            ("POST", "/metrics", 405),
            ("GET", f"{API}/orders/wait", 400),
        ],
    )
    def test_every_answer_has_them(self, site: Site, method: str, path: str, status: int) -> None:
        answer = site.ask(path, method)
        assert answer.status_code == status
        for name, text in SECURITY_HEADERS.items():
            assert answer.headers[name] == text
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]

    def test_an_error_of_our_own_has_them_and_tells_nothing(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(**_: object) -> Reading:
            raise RuntimeError("hunter2")

        monkeypatch.setattr(site.readings, "get", fail)
        answer = site.ask(API)
        assert answer.status_code == 500
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.json() == {"error": "an error of projectiond itself", "hint": "its log says more"}


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1:8790",
            "[::1]:8790",
            "10.1.2.3",
            "localhost",
            "localhost.",
            "web-1:80",
            "ops.example.com",
            "OPS.Example.com:1",
        ],
    )
    def test_an_address_a_name_without_a_dot_and_those_of_the_settings_are_answered(
        self, site: Site, host: str
    ) -> None:
        site.settings = Settings(http_allowed_hosts="a.example, ops.example.com")
        assert site.ask("/metrics", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", API, "/static/app.js", "/dashboard/stream"])
    @pytest.mark.parametrize(
        "host", ["rebound.example", "127.0.0.1.rebound.example:8790", "a.example, b", "[a.b", "a.b:c"]
    )
    def test_another_name_is_refused_whatever_is_asked_for(self, site: Site, path: str, host: str) -> None:
        answer = site.ask(path, headers={"Host": host})
        assert answer.status_code == 421
        assert "http_allowed_hosts" in answer.json()["hint"]
        assert ":8790" not in answer.json()["error"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]

    def test_any_name_is_answered_where_that_is_wanted(self, site: Site) -> None:
        site.settings = Settings(http_allowed_hosts="*")
        assert site.ask("/metrics", headers={"Host": "rebound.example"}).status_code == 200
        site.settings = Settings(http_host="db-1.example")
        assert site.ask("/metrics", headers={"Host": "db-1.example:8790"}).status_code == 200


class TestHealthz:
    def test_without_a_fault_it_asks_no_database(self, site: Site) -> None:
        answer = site.ask("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "faults": []})
        assert site.readings.asked == 0

    def test_a_fault_is_named_with_its_reason(self, site: Site) -> None:
        site.vigil.found = [STALLED]
        answer = site.ask("/healthz")
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "failing",
            "faults": [
                {
                    "kind": "projection",
                    "name": "orders",
                    "worker": 1,
                    "reason": "it stands at 41, and there is more to apply",
                    "seconds": 130.0,
                }
            ],
        }

    def test_a_database_that_is_away_excuses_all_but_the_supervisor(self, site: Site) -> None:
        site.vigil.found = [STALLED]
        site.readings.reading = replace(site.readings.reading, error="it does not answer")
        answer = site.ask("/healthz")
        assert answer.status_code == 200
        assert answer.json()["excuse"] == "it does not answer"
        assert [fault["name"] for fault in answer.json()["excused"]] == ["orders"]
        site.vigil.found = [STUCK, STALLED]
        answer = site.ask("/healthz")
        assert answer.status_code == 503
        assert [fault["kind"] for fault in answer.json()["faults"]] == ["supervisor"]

    def test_a_probe_waits_for_no_database(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hang(**_: object) -> Reading:
            raise AssertionError("the probe asked the database")

        async def story() -> Response:
            site.vigil.found = [STALLED]
            await site.health.judge()
            monkeypatch.setattr(site.readings, "get", hang)
            return await site.routes.healthz(Request({"type": "http"}))

        assert asyncio.run(story()).status_code == 503

    def test_draining_is_healthy(self) -> None:
        site = Site(crew=crew_of(page_of("orders"), is_draining=True))
        assert site.ask("/healthz").json()["status"] == "draining"


class TestReadyz:
    def unready(self, site: Site) -> dict[str, str]:
        answer = site.ask("/readyz")
        checks = answer.json()["checks"]
        faults = {name: check["fault"] for name, check in checks.items() if not check["ok"]}
        assert answer.status_code == (503 if faults else 200)
        assert list(checks) == ["configuration", "database", "schema", "workers", "leases"]
        return faults

    def test_all_is_well(self, site: Site) -> None:
        assert self.unready(site) == {}

    def test_before_a_worker_has_begun(self) -> None:
        site = Site(crew=crew_of(None), readings=FakeReadings(reading_of(state_of(has_runner=False))))
        assert self.unready(site) == {
            "configuration": "no worker has loaded a projection yet",
            "workers": "not at work: 1",
        }

    def test_a_database_that_is_away(self, site: Site) -> None:
        site.readings.reading = Reading(error="it does not answer")
        assert self.unready(site) == {
            "database": "it does not answer",
            "schema": "it has not been looked at yet",
            "leases": "they are not known",
        }

    def test_a_schema_that_is_not_current(self, site: Site) -> None:
        site.readings.reading = reading_of(state_of(), schema_faults=["a is missing", "b is old"])
        assert self.unready(site) == {"schema": "a is missing; b is old"}

    def test_a_projection_that_nobody_runs(self) -> None:
        # "sales" has no row yet; "elsewhere" is another daemon's.
        reading = reading_of(state_of(), state_of("elsewhere", has_runner=False, is_deployed=False))
        site = Site(crew=crew_of(page_of("orders", "sales")), readings=FakeReadings(reading))
        assert self.unready(site) == {"leases": "no worker runs sales"}

    def test_draining(self) -> None:
        site = Site(crew=crew_of(page_of("orders"), is_draining=True))
        assert self.unready(site) == {"workers": "the daemon drains"}


def at_work(recorder: Recorder) -> None:
    counters = recorder.slot(0, "orders").counters
    counters.note_start()
    counters.note_commit(30, 0.02, (0.004, 0.006))
    counters.observe(Timing.LATENCY, 0.0021)
    counters.note(Count.POISON_EVENTS)
    counters.note_state(State.CAUGHT_UP, 41)
    recorder.worker.note_look(41, is_held=True, has_moved=True)
    recorder.worker.note_wakeup(Wakeup.BELL)
    recorder.worker.note_holdings(1, {"pool_size": 3, "pool_available": 2, "requests_waiting": 1})


class TestMetrics:
    def samples(self, site: Site) -> dict[tuple[str, ...], float]:
        answer = site.ask("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found: dict[tuple[str, ...], float] = {}
        for metric in text_string_to_metric_families(answer.text):
            for sample in metric.samples:
                key = sample.name.removeprefix("projectiond_"), *(sample.labels[name] for name in sorted(sample.labels))
                assert key not in found, "twice the same sample"
                found[key] = sample.value
        return found

    def test_what_was_counted_and_read_is_exposed(self) -> None:
        reading = reading_of(state_of(lag=7, lag_seconds=2.5, status="paused", dead_letters=3))
        site = Site(crew=crew_of(page_of("orders", work=at_work)), readings=FakeReadings(reading))
        samples = self.samples(site)
        expected = {
            ("projection_lag_events", "orders"): 7,
            ("projection_lag_seconds", "orders"): 2.5,
            ("projection_checkpoint_position", "orders"): 41,
            ("projection_status", "orders", "paused"): 1,
            ("projection_status", "orders", "running"): 0,
            ("projection_dead_letters", "orders"): 3,
            ("store_head_position",): 41,
            ("database_up",): 1,
            ("projection_events_applied_total", "orders"): 30,
            ("projection_batches_total", "orders"): 2,
            ("projection_transactions_total", "orders"): 1,
            ("projection_poison_events_total", "orders"): 1,
            ("projection_runner_state", "orders", "caught_up"): 1,
            ("projection_runner_state", "orders", "working"): 0,
            ("projection_transaction_duration_seconds_bucket", "0.01", "orders"): 0,
            ("projection_transaction_duration_seconds_bucket", "0.025", "orders"): 1,
            ("projection_transaction_duration_seconds_bucket", "+Inf", "orders"): 1,
            ("projection_transaction_duration_seconds_count", "orders"): 1,
            ("projection_batch_duration_seconds_count", "orders"): 2,
            ("projection_batch_duration_seconds_sum", "orders"): pytest.approx(0.01),
            ("projection_visible_latency_seconds_bucket", "0.003", "orders"): 1,
            ("worker_ready", "1"): 1,
            ("worker_high_water_mark", "1"): 41,
            ("worker_wakeups_total", "bell", "1"): 1,
            ("worker_wakeups_total", "mark", "1"): 1,
            ("worker_leases", "1"): 1,
            ("worker_pool_connections", "in_use", "1"): 1,
            ("worker_pool_connections", "idle", "1"): 2,
            ("worker_pool_requests_waiting", "1"): 1,
            ("healthy",): 1,
        }
        assert {key: samples.get(key) for key in expected} == expected
        assert samples["worker_high_water_mark_held_seconds", "1"] > 0
        assert samples["worker_resident_memory_bytes", "1"] > 1e6

    def test_all_that_are_declared_are_exposed_and_no_others(self) -> None:
        reading = reading_of(state_of(rebuild=REBUILD))
        site = Site(crew=crew_of(page_of("orders", work=at_work)), readings=FakeReadings(reading))
        exposed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", site.ask("/metrics").text, re.MULTILINE))
        assert exposed == {family.name: family.type for family in FAMILIES}

    def test_what_holds_a_projection_or_its_rebuild_back_is_told_apart(self) -> None:
        states = [state_of("paused", error_message="bad event"), state_of("rebuilt", rebuild=REBUILD)]
        samples = self.samples(Site(readings=FakeReadings(reading_of(*states))))
        names = ("projection_has_error", "projection_rebuild_has_error", "projection_rebuild_share")
        assert {key: number for key, number in samples.items() if key[0] in names} == {
            ("projection_has_error", "paused"): 1,
            ("projection_has_error", "rebuilt"): 0,
            ("projection_rebuild_has_error", "rebuilt"): 1,
            ("projection_rebuild_share", "rebuilt"): 0.25,
        }

    def test_what_is_not_known_is_left_out(self) -> None:
        site = Site(crew=crew_of(None), readings=FakeReadings(Reading()))
        samples = self.samples(site)
        assert samples["database_up",] == 0
        assert samples["worker_ready", "1"] == 0
        assert not [key for key in samples if key[0].startswith(("projection_", "store_", "worker_high", "reading_"))]

    def test_a_time_that_is_none_is_no_number(self) -> None:
        site = Site(readings=FakeReadings(reading_of(state_of(lag=1, lag_seconds=None))))
        lag_seconds = self.samples(site)["projection_lag_seconds", "orders"]
        assert lag_seconds != lag_seconds  # noqa: PLR0124 -- so it is not a number

    def test_hostile_names_neither_break_the_format_nor_become_one(self) -> None:
        names = [HOSTILE, "a\n", "a\\n", "a"]
        site = Site(readings=FakeReadings(reading_of(*(state_of(name) for name in names))))
        text = site.ask("/metrics").text
        assert not re.search(r"[^\x20-\x7e\n]", text)
        lags = [key for key in self.samples(site) if key[0] == "projection_lag_events"]
        assert len(lags) == len(names)

    def test_what_dead_workers_counted_stays_counted(self) -> None:
        page = page_of("orders", work=at_work)
        past = {name: numbers.ended() for name, numbers in page.projections().items()}
        crew = crew_of(page, past=past)
        member = replace(crew.members[0], restarts=1, past_wakeups={Wakeup.BELL: 5})
        samples = self.samples(Site(crew=replace(crew, members=(member,))))
        assert samples["projection_events_applied_total", "orders"] == 60
        assert samples["projection_transaction_duration_seconds_bucket", "+Inf", "orders"] == 2
        assert samples["worker_restarts_total", "1"] == 1
        assert samples["worker_wakeups_total", "bell", "1"] == 6
        gone = replace(crew, members=(replace(crew.members[0], page=None, pid=None),))
        samples = self.samples(Site(crew=gone))
        assert samples["projection_events_applied_total", "orders"] == 30
        assert samples["projection_runner_state", "orders", "elsewhere"] == 1


class TestProjections:
    def test_all_and_one_are_the_same(self) -> None:
        reading = reading_of(state_of(), state_of("sales", position=None, status=None))
        overview = reading.overview
        assert overview is not None
        hold = Hold(41, ["pid 7"], ["SELECT pg_terminate_backend(7)"])
        reading = replace(reading, overview=replace(overview, hold=hold))
        site = Site(crew=crew_of(page_of("orders", work=at_work)), readings=FakeReadings(reading))
        everything = site.ask(API).json()
        assert everything["hold"]["holders"] == ["pid 7"]
        assert everything["workers"][0]["high_water_mark"] == 41
        assert [projection["name"] for projection in everything["projections"]] == ["orders", "sales"]
        one = site.ask(f"{API}/orders").json()
        assert one.pop("database")["is_answering"] is True
        assert one == everything["projections"][0]
        assert one["here"]["events"] == 30
        assert one["here"]["worker"] == 1
        assert everything["projections"][1]["here"] is None

    def test_an_old_reading_says_that_it_is_old(self, site: Site) -> None:
        site.readings.reading = replace(site.readings.reading, error="it does not answer")
        database = site.ask(API).json()["database"]
        assert (database["is_answering"], database["error"]) == (False, "it does not answer")
        assert database["age_seconds"] > 0

    def test_nothing_read_yet(self) -> None:
        site = Site(readings=FakeReadings(Reading(error="it does not answer")))
        everything = site.ask(API)
        assert everything.status_code == 200
        assert everything.json()["projections"] == []
        assert site.ask(f"{API}/orders").status_code == 503

    def test_an_unknown_name(self, site: Site) -> None:
        answer = site.ask(f"{API}/nope")
        assert (answer.status_code, answer.json()["error"]) == (404, 'unknown projection "nope"')

    def test_the_path_without_a_version_leads_to_the_newest(self, site: Site) -> None:
        for path in ("", "/orders", "/orders/wait?sequence=1&timeout=2", "/a%2Fb%3F%0A/wait"):
            for prefix in ("http://daemon", "http://proxy/below/a/path"):
                # Behind a proxy that takes a prefix off.
                led = urljoin(
                    f"{prefix}/api/projections{path}", site.ask(f"/api/projections{path}").headers["Location"]
                )
                assert led == f"{prefix}{API}{path}"
        elsewhere = site.ask("/api/projections//elsewhere.example/x").headers["Location"]
        assert urljoin("http://daemon/api/projections//elsewhere.example/x", elsewhere).startswith("http://daemon/")

    @pytest.mark.parametrize("name", ["a/b", "a?b#c%2F", "..", ".", "ü\n", re.sub("[\x00\udc80]", "", HOSTILE)])
    def test_a_name_is_whatever_it_is(self, name: str) -> None:
        site = Site(readings=FakeReadings(reading_of(state_of(name))))
        path = f"{API}/{quote(name, safe='')}"
        if name not in {".", ".."}:
            assert site.ask(path).json()["name"] == name
        assert site.ask(f"{path.replace('.', '%2E')}/wait?sequence=1").json()["projection"] == name

    def test_hostile_texts_are_escaped(self) -> None:
        reading = reading_of(state_of(HOSTILE, error_message=HOSTILE), error=HOSTILE)
        answer = Site(readings=FakeReadings(reading)).ask(API)
        assert not re.search(rb"[^\x20-\x7e\n]", answer.content)
        assert answer.json()["projections"][0]["error_message"] == HOSTILE


class TestWait:
    def test_a_name_that_no_projection_can_have_is_not_asked_for(self, site: Site) -> None:
        assert site.ask(f"{API}/a%00b/wait?sequence=1").status_code == 404
        assert not site.waiters.asked

    def test_reached(self, site: Site) -> None:
        answer = site.ask(f"{API}/orders/wait?sequence=40&timeout=2.5")
        assert answer.status_code == 200
        shape = answer.json()
        assert shape.pop("waited_seconds") >= 0
        assert shape == {"projection": "orders", "sequence": 40, "position": 41}
        assert site.waiters.asked == [("orders", 40, 2.5)]

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (WaitTimeoutError("late"), 504),
            (ProjectionPausedError("paused"), 409),
            (ConfigurationError("unknown"), 404),
            (DatabaseUnavailableError("away"), 503),
            (ProjectiondError("what"), 500),
        ],
    )
    def test_not_reached(self, error: ProjectiondError, status: int) -> None:
        answer = Site(waiters=FakeWaiters(Outcome(40, error))).ask(f"{API}/orders/wait?sequence=43")
        assert answer.status_code == status
        assert (answer.json()["error"], answer.json()["position"], answer.json()["lag"]) == (error.message, 40, 3)

    def test_too_many_wait_already(self) -> None:
        answer = Site(waiters=FakeWaiters(TooManyWaitersError("full"))).ask(f"{API}/orders/wait?sequence=43")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "timeout=1",
            "sequence=",
            "sequence=x",
            "sequence=-1",
            "sequence=1_0",
            "sequence=%2B1",
            "sequence=%D9%A3",
            "sequence=9223372036854775808",
            "sequence=" + "9" * 5000,
            "sequence=1&timeout=x",
            "sequence=1&timeout=-1",
            "sequence=1&timeout=61",
            "sequence=1&timeout=nan",
            "sequence=1&timeout=inf",
            "sequence=1&timeout=",
            "sequence=1&timeout_seconds=1",
        ],
    )
    def test_bad_input(self, site: Site, query: str) -> None:
        answer = site.ask(f"{API}/orders/wait?{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]
        assert not site.waiters.asked

    def test_the_largest_number_is_one(self, site: Site) -> None:
        assert site.ask(f"{API}/orders/wait?sequence=9223372036854775807").status_code == 200


def test_the_process_that_builds_a_projection_anew_is_measured_while_there_is_one() -> None:
    crew = crew_of(page_of("orders"))
    idle = Site(crew).ask("/metrics").text
    assert "projectiond_builder_resident_memory_bytes{" not in idle
    builder = Builder("orders", os.getpid(), time.monotonic() - 3)
    busy = Site(replace(crew, builder=builder)).ask("/metrics").text
    age = re.search(r'^projectiond_builder_heartbeat_age_seconds\{projection="orders"\} (\S+)$', busy, re.MULTILINE)
    assert age is not None
    assert 3 <= float(age[1]) < 60
    assert 'projectiond_builder_resident_memory_bytes{projection="orders"}' in busy
