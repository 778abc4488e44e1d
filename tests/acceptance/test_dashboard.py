"""The dashboard in a real browser: light, dark, narrow, by the keyboard alone, over hostile data, and through outages.

It needs Chromium (Debian's package `chromium`, or PROJECTIOND_TEST_BROWSER names one) and Python's playwright.
PROJECTIOND_TEST_SCREENSHOTS names a directory for pictures of what was seen.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from projectiond.http import readings, stream
from tests.support.dashboard import (
    HOSTILE,
    TOKEN,
    UNSEEN,
    Site,
    add_letter,
    add_projection,
    add_worker,
    crew_at_work,
    serving,
)
from tests.support.events import append, append_many
from tests.support.postgres import Database
from tests.support.queries import value

playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")

CHROMIUM = os.environ.get("PROJECTIOND_TEST_BROWSER") or shutil.which("chromium")
SCREENSHOTS = os.environ.get("PROJECTIOND_TEST_SCREENSHOTS")

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.any_server,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install Debian's package chromium"),
]

NAMES = ("customer_balance", "daily_sales", "invoice_lines", "search_index", "stock_levels")
POISON = "event 39 failed in CustomerBalance.placed (customer_balance.py:41): KeyError: 'customer'"

# The contrast of each text with what is behind it, by WCAG's formula; the least of all elements that hold text.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const opacity = (node) => (node ? getComputedStyle(node).opacity * opacity(node.parentElement) : 1);
  const light = (color) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  let least = { ratio: 99, text: "" };
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || !node.checkVisibility({ visibilityProperty: true }) || node.closest(".unseen")) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    const ratio = opacity(node) < 1 ? 1 : (a + 0.05) / (b + 0.05);
    if (ratio < least.ratio) least = { ratio, text };
  }
  return least;
}"""

# What a screen reader says where there is no text.
LABELS = """() => [...document.querySelectorAll("[aria-label], [title]")]
  .map((node) => `${node.getAttribute("aria-label")} ${node.title}`).join(" ")"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox refuses root, which CI is; and all that is loaded here is ours.
        arguments = ["--no-sandbox", "--disable-gpu"]
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        playwright.expect.set_options(timeout=20_000)
        yield opened
        opened.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than once a second."""
    monkeypatch.setattr(stream, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(readings, "LIVE_SECONDS", 0.1)


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    with serving(database, *NAMES) as site:
        yield site


@pytest.fixture
def lone(database: Database) -> Iterator[Site]:
    """Serve a daemon that runs nothing."""
    with serving(database) as site:
        yield site


@pytest.fixture
def shop(site: Site) -> Site:
    """Fill the database with projections in all conditions."""
    conn = site.conn
    head = append_many(conn, 40, "OrderPlaced")[-1]
    add_projection(conn, "customer_balance", 38, status="paused", error_message=POISON)
    add_projection(conn, "daily_sales", head)
    add_projection(conn, "invoice_lines", head)
    add_projection(conn, "search_index", head)
    add_projection(conn, "stock_levels", head, status="paused")
    conn.execute("UPDATE projection_checkpoints SET status = 'rebuilding' WHERE projection_name = 'search_index'")
    conn.execute(
        "INSERT INTO projection_rebuilds"
        " (projection_name, started_at, target_sequence_number, position_sequence_number)"
        " VALUES ('search_index', now() - interval '1 minute', %s, %s)",
        (head, head // 2),
    )
    for number in (7, 8):
        add_letter(conn, "invoice_lines", number, {"customer": "Ann", "amount": 12345678901234567890})
    add_worker(conn, "web-1", *NAMES)
    site.server.show(crew_at_work(*NAMES, mark=head))
    return site


class Visit:
    """A page, and what went wrong in it."""

    def __init__(self, browser: Any, site: Site, **options: Any) -> None:  # noqa: ANN401 -- playwright's
        self.site = site
        self.context = browser.new_context(locale="en-GB", **{"viewport": {"width": 1360, "height": 860}, **options})
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("dialog", lambda dialog: self.troubles.append(dialog.message))
        self.page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def __enter__(self) -> Self:
        self.page.goto(self.site.url)
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")

    def row(self, name: str) -> Any:  # noqa: ANN401 -- playwright's
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("button", name=name, exact=True))

    def open(self, name: str) -> Any:  # noqa: ANN401 -- playwright's
        self.page.get_by_role("button", name=name, exact=True).click()
        return self.page.get_by_role("complementary", name=name)

    def focused(self) -> str:
        said: str = self.page.evaluate("document.activeElement.textContent || document.activeElement.id")
        return said.strip()


def status(conn: psycopg.Connection[Any], name: str) -> str:
    found: str = value(conn, "SELECT status FROM projection_checkpoints WHERE projection_name = %s", name)
    return found


def expect(locator: Any) -> Any:  # noqa: ANN401 -- playwright's
    """Wait until something holds of it, for as long as a busy machine may take."""
    return playwright.expect(locator)


def test_it_shows_how_everything_stands_the_worst_first(browser: Any, shop: Site) -> None:  # noqa: ANN401
    with Visit(browser, shop) as visit:
        page = visit.page
        expect(page.locator("#connection-text")).to_have_text("live")
        expect(page.get_by_role("rowheader").get_by_role("button")).to_have_text(
            ["customer_balance", "stock_levels", "search_index", "invoice_lines", "daily_sales"]
        )
        expect(visit.row("customer_balance")).to_contain_text("stopped")
        expect(visit.row("customer_balance")).to_contain_text("KeyError: 'customer'")
        expect(visit.row("search_index")).to_contain_text(re.compile(r"50 %, about \d+ s left"))
        expect(visit.row("invoice_lines")).to_contain_text("2 dead letters")
        assert page.title() == "(3) projectiond"
        # What has been appended; and live from here on.
        expect(page.locator("#today")).to_have_text("40")
        append_many(shop.conn, 10, "OrderPlaced")
        expect(page.locator("#head")).to_have_text("50")
        expect(visit.row("daily_sales").get_by_role("cell").nth(1)).to_have_text("10")
        visit.picture("light")
        panel = visit.open("search_index")
        expect(panel).to_contain_text("It is built anew beside its live tables")
        expect(panel).to_contain_text(re.compile(r"worker 1 of web-1, process 4711, version 1\.2\.3, since \d"))
        panel = visit.open("invoice_lines")
        expect(panel.get_by_role("listitem")).to_have_count(2)
        visit.picture("light-panel")
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5
        # Everything came from the daemon.
        assert all(url.startswith(shop.url) for url in visit.asked)
        assert not visit.troubles


@pytest.mark.parametrize("width", [1360, 360])
def test_it_is_dark_and_narrow_where_that_is_wanted(browser: Any, shop: Site, width: int) -> None:  # noqa: ANN401
    with Visit(browser, shop, color_scheme="dark", viewport={"width": width, "height": 740}) as visit:
        page = visit.page
        visit.row("customer_balance").wait_for()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 20, 27)"
        visit.picture(f"dark-{width}")
        for part in ("Busiest aggregates", "Who is at work"):
            page.get_by_text(part).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        panel = visit.open("invoice_lines")
        panel.get_by_text("7 OrderPlaced").click()
        visit.picture(f"dark-{width}-panel")
        expect(page.locator(".plain th", has_text="Since")).to_be_visible()
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5
        panel.get_by_role("button", name="Retry …").click()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        visit.picture(f"dark-{width}-dialog")
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Where the panel covers the rest, that is not to be reached.
        assert page.evaluate("document.querySelector('main').inert") is (width == 360)
        assert not visit.troubles


def test_by_the_keyboard_alone_one_is_paused_and_resumed(browser: Any, shop: Site) -> None:  # noqa: ANN401
    with Visit(browser, shop) as visit:
        page, press = visit.page, visit.page.keyboard.press
        visit.row("daily_sales").wait_for()
        press("Tab")
        assert visit.focused() == "Skip to the projections"
        press("/")
        page.keyboard.type("daily")
        expect(page.get_by_role("row")).to_have_count(2)
        press("Tab")
        assert visit.focused() == "daily_sales"
        press("Enter")
        assert visit.focused() == "daily_sales"
        for _ in range(2):
            press("Tab")
        assert visit.focused() == "Pause …"
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        press("Enter")
        dialog = page.get_by_role("dialog", name="Pause daily_sales?")
        expect(dialog).to_contain_text("It stands at 40; events that arrive wait in the store")
        # The wrong token first.
        assert visit.focused() == "token"
        page.keyboard.type("a-token-of-a-stranger")
        press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The token is not the right one.")
        assert (visit.focused(), status(shop.conn, "daily_sales")) == ("token", "running")
        page.keyboard.type(TOKEN)
        press("Enter")
        expect(dialog).to_be_hidden()
        assert status(shop.conn, "daily_sales") == "paused"
        expect(page.locator("#toast")).to_have_text("daily_sales is paused at 40")
        panel = page.get_by_role("complementary", name="daily_sales")
        expect(panel.get_by_role("button", name="Resume …")).to_be_focused()
        press("Enter")
        expect(page.get_by_role("dialog", name="Resume daily_sales?")).to_contain_text("nothing to apply yet")
        visit.picture("keyboard")
        # The token is known by now.
        press("Enter")
        expect(panel.get_by_role("button", name="Pause …")).to_be_focused()
        assert status(shop.conn, "daily_sales") == "running"
        expect(page.get_by_role("status")).to_contain_text("daily_sales goes on at 40")
        press("Escape")
        expect(panel).to_be_hidden()
        assert visit.focused() == "daily_sales"
        # It is nowhere but in this tab.
        assert page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]") == [
            [TOKEN],
            [],
            "",
        ]
        assert not [url for url in visit.asked if TOKEN in url]


def test_dead_letters_are_looked_at_retried_and_discarded(browser: Any, shop: Site) -> None:  # noqa: ANN401
    with Visit(browser, shop) as visit:
        page = visit.page
        panel = visit.open("invoice_lines")
        panel.get_by_text("7 OrderPlaced").click()
        panel.get_by_role("button", name="Show the event").click()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Show", exact=True).click()
        # To the last digit, which a number of JavaScript could not hold.
        expect(panel.locator("pre:visible")).to_have_text(
            '{\n  "amount": 12345678901234567890,\n  "customer": "Ann"\n}'
        )
        panel.get_by_role("button", name="Retry …").click()
        expect(page.get_by_role("dialog")).to_contain_text("later events, up to 40, were applied already")
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(panel.get_by_text("7 OrderPlaced · to be tried again")).to_be_visible()
        asked = "SELECT array_agg(sequence_number) FROM projection_dead_letters WHERE retry_requested_at IS NOT NULL"
        assert value(shop.conn, asked) == [7]
        # What the daemon does.
        shop.conn.execute("DELETE FROM projection_dead_letters WHERE sequence_number = 7")
        panel.get_by_text("8 OrderPlaced").click()
        panel.get_by_role("button", name="Discard …").last.click()
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.get_by_role("button", name="Discard", exact=True).click()
        expect(panel.get_by_text("Dead letters")).to_be_hidden()
        assert value(shop.conn, "SELECT count(*) FROM projection_dead_letters") == 0
        panel.get_by_role("button", name="Rebuild …").click()
        expect(page.get_by_role("dialog")).to_contain_text("at most 40 events")
        page.get_by_role("button", name="Rebuild", exact=True).click()
        expect(visit.row("invoice_lines")).to_contain_text("rebuilding")
        assert status(shop.conn, "invoice_lines") == "rebuilding"
        assert not visit.troubles


def test_hostile_names_and_data_are_text(browser: Any, lone: Site) -> None:  # noqa: ANN401
    site = lone
    name = HOSTILE[:90]
    append_many(site.conn, 1, "OrderPlaced")
    site.conn.execute("UPDATE event_store SET aggregate_type = %s", (HOSTILE,))
    add_worker(site.conn, HOSTILE, name)
    add_projection(site.conn, name, 0, error_message=HOSTILE)
    add_letter(
        site.conn,
        name,
        7,
        {"text": HOSTILE, "long": "x" * 5_000_000},
        event_type=HOSTILE,
        handler=HOSTILE,
        error=HOSTILE,
    )
    with Visit(browser, site) as visit:
        page = visit.page
        row = page.get_by_role("rowheader").first
        expect(row).to_contain_text("<script>document.title='taken'</script>")
        page.get_by_role("rowheader").get_by_role("button").click()
        panel = page.locator("#panel")
        panel.locator("summary").click()
        panel.get_by_role("button", name="Show the event").click()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Show", exact=True).click()
        expect(panel).to_contain_text("The first 20,000 of 5,000,")
        visit.picture("hostile")
        panel.get_by_role("button", name="Pause …").click()
        expect(page.get_by_role("dialog")).to_contain_text("Pause <script>")
        page.get_by_role("button", name="Pause", exact=True).click()
        expect(panel.get_by_role("button", name="Resume …")).to_be_visible()
        assert status(site.conn, name) == "paused"
        for part in ("Busiest aggregates", "Who is at work"):
            page.get_by_text(part).click()
        expect(page.locator("table.plain:visible").filter(has_text="<img src=x")).to_have_count(2)
        assert page.title() == "(1) projectiond"
        assert page.locator("script").count() == 1
        assert page.locator("img").count() == 1
        seen = page.locator("body").inner_text() + page.evaluate(LABELS)
        assert not set(seen) & {"\x1b", *UNSEEN}
        assert not visit.troubles


def test_an_outage_is_said_with_the_age_of_what_is_shown_and_ends_by_itself(
    browser: Any,  # noqa: ANN401
    database: Database,
    shop: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Visit(browser, shop) as visit:
        page = visit.page
        visit.row("daily_sales").wait_for()
        notices = page.locator("#notices")

        def fail() -> None:
            raise psycopg.OperationalError("the server is on fire")

        with monkeypatch.context() as patch:
            patch.setattr(shop.server._readings, "_take", fail)
            expect(notices).to_contain_text("The database does not answer: OperationalError: the server is on fire")
            expect(notices).to_contain_text("s old")
            expect(visit.row("daily_sales")).to_contain_text("running")
            visit.picture("away")
            assert page.evaluate(CONTRAST)["ratio"] >= 4.5
        expect(notices).to_be_empty()
        expect(page.locator("#connection-text")).to_have_text("live")
        # The daemon itself.
        shop.server.stop()
        expect(notices).to_contain_text("No connection to the daemon since")
        expect(page.get_by_role("status")).to_contain_text("No connection to the daemon since")
        visit.picture("lost")
        with serving(database, *NAMES, port=shop.settings.http_port):
            page.evaluate("window.dispatchEvent(new Event('online'))")
            expect(notices).to_be_empty()
            expect(page.locator("#connection-text")).to_have_text("live")
            # And it is the new one that speaks.
            add_projection(shop.conn, "newcomer", 3)
            visit.row("newcomer").wait_for()


def test_without_a_token_in_the_settings_nothing_can_be_done(
    browser: Any,  # noqa: ANN401
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(database, "orders", http_token=None) as site:
        add_projection(site.conn, "orders", 3)
        add_letter(site.conn, "orders", 2, {})
        with Visit(browser, site) as visit:
            panel = visit.open("orders")
            expect(panel).to_contain_text("To steer from here set http_token. Until then: projectiond pause orders")
            panel.locator("summary").click()
            expect(panel).to_contain_text("ValueError: no such customer")
            expect(panel.get_by_role("button")).to_have_count(1)
            # Somebody else comes, and there is no place.
            monkeypatch.setattr(stream, "MOST_VIEWERS", 1)
            with Visit(browser, site) as second:
                notices = second.page.locator("#notices")
                expect(notices).to_contain_text("As many look at this page already as may")
                visit.context.close()
                expect(notices).to_be_empty()


def test_who_holds_the_mark_and_who_is_at_work_is_said_of_fifty_projections(
    browser: Any,  # noqa: ANN401
    database: Database,
    site: Site,
) -> None:
    names = [f"{name}_{number}" for number in range(1, 11) for name in NAMES]
    head = append_many(site.conn, 40, "OrderPlaced")[-1]
    for index, name in enumerate(names):
        add_projection(site.conn, name, head - (index % 7))
    add_worker(site.conn, "web-1", *names[:30])
    site.server.show(crew_at_work(*names, mark=head))
    other = database.connect()
    add_worker(other, "web-2", *names[30:49], can_run=["invoice_lines_elsewhere"])
    with database.connect(autocommit=False) as writer, Visit(browser, site) as visit:
        page = visit.page
        writer.execute("SET application_name = 'import'")
        append(writer, "OrderPlaced")
        append(site.conn, "OrderPlaced")
        notices = page.locator("#notices")
        expect(notices).to_contain_text(f"Events after {head} wait")
        expect(notices).to_contain_text('(app "import"')
        expect(notices).to_contain_text(f"SELECT pg_terminate_backend({writer.info.backend_pid})")
        expect(notices).to_contain_text("The live workers have different projections")
        expect(page.get_by_role("row")).to_have_count(51)
        page.get_by_text("Who is at work").click()
        workers = page.get_by_role("region", name="Workers").get_by_role("row")
        expect(workers.nth(1)).to_contain_text("30 of 30")
        expect(workers.nth(1)).to_contain_text("and 10 others")
        expect(workers.nth(2)).to_contain_text("web-2")
        visit.picture("fifty-held")
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5
        other.close()
        expect(workers).to_have_count(2)
        writer.rollback()
        expect(notices).to_be_empty()
        assert not visit.troubles


def test_two_hundred_projections_are_changed_one_by_one(browser: Any, lone: Site) -> None:  # noqa: ANN401
    site = lone
    site.conn.execute(
        "INSERT INTO projection_checkpoints (projection_name, last_processed_at)"
        " SELECT 'p' || lpad(n::text, 3, '0'), now() - interval '1 day' FROM generate_series(1, 200) AS n"
    )
    with Visit(browser, site) as visit:
        page = visit.page
        expect(page.get_by_role("row")).to_have_count(201)
        page.evaluate("() => { window.before = [...document.getElementById('rows').children]; }")
        page.get_by_role("button", name="p044").focus()
        site.conn.execute("UPDATE projection_checkpoints SET error_message = 'x' WHERE projection_name = 'p117'")
        expect(page.get_by_role("row").filter(has_text="p117")).to_contain_text("trouble")
        # Rows do not move under somebody's hand.
        expect(page.get_by_role("rowheader").first).to_contain_text("p001")
        page.keyboard.press("ArrowDown")
        assert visit.focused() == "p045"
        page.locator("#filter").focus()
        expect(page.get_by_role("rowheader").first).to_contain_text("p117")
        assert page.evaluate("() => window.before.every((node) => node.isConnected)")
        page.locator("#filter").fill("p11")
        expect(page.get_by_role("row")).to_have_count(11)
        assert not visit.troubles
