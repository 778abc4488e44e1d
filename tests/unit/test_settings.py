"""Where settings come from, what is refused, and in which words."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from projectiond.errors import ConfigurationError
from projectiond.settings import ProjectionSettings, Settings, load_settings
from projectiond.settings_faults import shown

ROOT = Path(__file__).parents[2]
URL = "postgresql://app:s3cret@db.example:5433/events"
LIKE = "must be like postgresql://user:password@host:5432/database"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    import os  # noqa: PLC0415 - only here is the real environment looked at

    for name in os.environ:
        if name.startswith("PROJECTIOND_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def write(text: str) -> Path:
    path = Path("x.toml")
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(config_file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config_file)
    return str(caught.value).splitlines()


class TestSources:
    def test_the_defaults_are_the_development_file(self) -> None:
        assert load_settings() == Settings()
        assert load_settings(ROOT / "config" / "development.toml") == Settings()

    def test_the_production_file_is_as_designed(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("DATABASE_URL", URL)
        settings = load_settings(ROOT / "config" / "production.toml")
        assert (
            settings.pool_size,
            settings.statement_timeout_seconds,
            settings.batch_size,
            settings.checkpoint_every,
            settings.snapshot_threshold,
        ) == (20, 10, 500, 100, 100)
        assert settings.require_database_url

    def test_production_refuses_to_run_without_an_address(self) -> None:
        file = ROOT / "config" / "production.toml"
        assert faults_of(file) == [
            (
                "database_url is not set, but require_database_url is true: "
                f"set DATABASE_URL to the database's address, or database_url_file to a file with it ({file})"
            )
        ]

    def test_the_environment_beats_the_file_and_the_file_the_defaults(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_BATCH_SIZE", "70")
        settings = load_settings(write("batch_size = 60\npool_size = 9"))
        assert (settings.batch_size, settings.pool_size, settings.workers) == (70, 9, 1)

    def test_every_setting_can_come_from_the_environment(self, environment: pytest.MonkeyPatch) -> None:
        wanted: dict[str, tuple[str, object]] = {
            "require_database_url": ("true", True),
            "pool_size": ("8", 8),
            "statement_timeout_seconds": ("2.5", 2.5),
            "batch_size": ("7", 7),
            "checkpoint_every": ("3", 3),
            "catchup_transaction_seconds": ("0.25", 0.25),
            "rebuild_max_share": ("0.5", 0.5),
            "rebuild_niceness": ("19", 19),
            "snapshot_threshold": ("9", 9),
            "poll_interval_seconds": ("0.25", 0.25),
            "wakeup": ("poll", "poll"),
            "workers": ("2", 2),
            "max_attempts": ("5", 5),
            "on_error": ("skip", "skip"),
            "on_change": ("rebuild", "rebuild"),
            "synchronous_commit": ("off", "off"),
            "handler_timeout_seconds": ("11", 11.0),
            "drain_seconds": ("0", 0.0),
            "http_host": ("::1", "::1"),
            "http_port": ("0", 0),
            "http_allowed_hosts": ("a.example, b.example", "a.example, b.example"),
            "stall_seconds": ("7.5", 7.5),
            "log_format": ("json", "json"),
            "log_level": ("debug", "debug"),
            "projections": ("a:/b/c", (Path("a"), Path("/b/c"))),
        }
        for name, (text, _) in wanted.items():
            environment.setenv(f"PROJECTIOND_{name.upper()}", text)
        environment.setenv("PROJECTIOND_DATABASE_URL", URL)
        settings = load_settings()
        assert {name: getattr(settings, name) for name in wanted} == {n: v for n, (_, v) in wanted.items()}
        secrets = {"database_url", "database_url_file", "http_token", "http_token_file"}
        assert set(wanted) | secrets | {"projection"} == set(Settings.model_fields)

    def test_our_own_variable_beats_database_url_and_both_beat_the_file(self, environment: pytest.MonkeyPatch) -> None:
        file = write('database_url = "postgresql://file/x"')
        assert load_settings(file).database_dsn() == "postgresql://file/x"
        environment.setenv("DATABASE_URL", "postgresql://general/x")
        assert load_settings(file).database_dsn() == "postgresql://general/x"
        environment.setenv("PROJECTIOND_DATABASE_URL", "host=ours dbname=x")
        assert load_settings(file).database_dsn() == "host=ours dbname=x"

    def test_an_empty_variable_is_an_unset_one(self, environment: pytest.MonkeyPatch) -> None:
        for name in (
            "PROJECTIOND_POOL_SIZE",
            "PROJECTIOND_DATABASE_URL",
            "DATABASE_URL",
            "PROJECTIOND_CONFIG",
        ):
            environment.setenv(name, "")
        assert load_settings() == Settings()

    def test_the_file_can_be_named_by_a_variable_and_the_option_beats_it(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_CONFIG", str(write("pool_size = 9")))
        assert load_settings().pool_size == 9
        other = Path("other.toml")
        other.write_text("pool_size = 10")
        assert load_settings(other).pool_size == 10

    def test_a_projection_may_differ(self) -> None:
        settings = load_settings(write('[projection.orders]\nbatch_size = 5\non_error = "skip"'))
        assert settings.projection == {"orders": ProjectionSettings(batch_size=5, on_error="skip")}
        assert settings.projection["orders"].max_attempts is None

    def test_variables_that_kubernetes_makes_for_a_service_of_our_name_are_ignored(
        self, environment: pytest.MonkeyPatch
    ) -> None:
        environment.setenv("PROJECTIOND_SERVICE_HOST", "10.0.0.1")
        environment.setenv("PROJECTIOND_SERVICE_PORT_HTTP", "80")
        environment.setenv("PROJECTIOND_PORT", "tcp://10.0.0.1:80")
        environment.setenv("PROJECTIOND_PORT_80_TCP_ADDR", "10.0.0.1")
        assert load_settings() == Settings()


class TestFaults:
    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("pool_size = 0", "pool_size is 0 in x.toml: must be at least 4"),
            ("pool_size = 501", "pool_size is 501 in x.toml: must be at most 500"),
            ("workers = true", "workers is true in x.toml: must be a whole number"),
            ("workers = 1.5", "workers is 1.5 in x.toml: must be a whole number"),
            ('batch_size = "5"', 'batch_size is "5" in x.toml: must be a whole number'),
            ("batch_size = 100_001", "batch_size is 100001 in x.toml: must be at most 100000"),
            ("poll_interval_seconds = 0", "poll_interval_seconds is 0 in x.toml: must be at least 0.01"),
            ("drain_seconds = nan", "drain_seconds is NaN in x.toml: must be at most 3600"),
            ("drain_seconds = inf", "drain_seconds is Infinity in x.toml: must be at most 3600"),
            ('drain_seconds = "1"', 'drain_seconds is "1" in x.toml: must be a number'),
            ('wakeup = "never"', 'wakeup is "never" in x.toml: must be "notify" or "poll"'),
            (
                "log_level = 2020-01-01",
                'log_level is "2020-01-01" in x.toml: must be "debug", "info", "warning" or "error"',
            ),
            ("require_database_url = 1", "require_database_url is 1 in x.toml: must be true or false"),
            ('projections = "p"', 'projections is "p" in x.toml: must be a list of directories'),
            ("projections = [5]", "projections is 5 in x.toml: must be a list of directories"),
            ("http_host = 5", "http_host is 5 in x.toml: must be a text"),
            ("projection = 1", "projection is 1 in x.toml: must be a table of settings"),
            ("projection.a = 1", 'projection "a" is 1 in x.toml: must be a table of settings'),
            (
                "projection.a.batch_size = 0",
                'batch_size of projection "a" is 0 in x.toml: must be at least 1',
            ),
            (
                "projection.a.batch = 1",
                'unknown setting "batch" of projection "a" in x.toml: the nearest known one is "batch_size"',
            ),
            (
                "pol_size = 5",
                'unknown setting "pol_size" in x.toml: the nearest known one is "pool_size"',
            ),
            ("database_url = 5", "database_url in x.toml must be a text"),
        ],
    )
    def test_each_is_one_sentence_with_value_place_and_bound(self, line: str, sentence: str) -> None:
        assert faults_of(write(line)) == [sentence]

    def test_a_name_like_no_other_gets_the_list_of_all(self) -> None:
        (sentence,) = faults_of(write('"we\\u001bird" = 1'))
        assert sentence.startswith('unknown setting "we\\u001bird" in x.toml: known are database_url, ')
        assert sentence.isprintable()
        (sentence,) = faults_of(write("projection.a.zzz = 1"))
        assert sentence.endswith("on_error, max_attempts, on_change, synchronous_commit")

    def test_an_unknown_variable_is_named_with_the_nearest(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_WORKER", "2")
        (sentence,) = faults_of()
        known = 'the nearest known one is "PROJECTIOND_WORKERS"'
        assert sentence == f'unknown environment variable "PROJECTIOND_WORKER": {known}'

    def test_a_projections_own_settings_cannot_come_from_the_environment(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_PROJECTION", "{}")
        assert faults_of()[0].startswith('unknown environment variable "PROJECTIOND_PROJECTION"')

    def test_a_wrong_variable_is_named(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_MAX_ATTEMPTS", "often")
        environment.setenv("PROJECTIOND_POOL_SIZE", "3")
        assert faults_of(write("pool_size = 0")) == [
            "pool_size is 3 in PROJECTIOND_POOL_SIZE: must be at least 4",
            'max_attempts is "often" in PROJECTIOND_MAX_ATTEMPTS: must be a whole number',
        ]

    def test_all_are_told_at_once(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_BATCHSIZE", "1")
        environment.setenv("PROJECTIOND_WORKERS", "0")
        sentences = faults_of(write("pool_size = 0\npoolsize = 4\n[projection.a]\nmax_attempts = 0"))
        assert len(sentences) == 5

    def test_a_long_value_is_cut(self) -> None:
        (sentence,) = faults_of(write(f'wakeup = "{"x" * 10_000}"'))
        assert len(sentence) < 150

    def test_a_missing_file_is_named(self) -> None:
        assert faults_of(Path("none.toml")) == ["there is no settings file none.toml; look at --config"]

    def test_a_directory_is_no_file(self, tmp_path: Path) -> None:
        assert faults_of(tmp_path) == [f"the settings file {tmp_path} cannot be read: Is a directory"]

    def test_a_syntax_error_has_its_line(self) -> None:
        (sentence,) = faults_of(write("pool_size = 5\nbatch_size 5\n"))
        assert sentence.startswith("the settings file x.toml is not valid TOML: ")
        assert "line 2" in sentence

    def test_a_file_that_is_not_text_is_refused(self) -> None:
        Path("x.toml").write_bytes(b"\xff\xfe\x00")
        assert faults_of(Path("x.toml"))[0].startswith("the settings file x.toml is not valid TOML: ")

    def test_a_file_nested_beyond_reason_is_refused(self) -> None:
        path = write("a = " + "[" * 100_000)
        assert faults_of(path)[0].startswith("the settings file x.toml is not valid TOML: ")

    @given(value=st.one_of(st.text(), st.integers(), st.floats(), st.lists(st.text()), st.dates()))
    def test_any_value_can_be_shown(self, value: object) -> None:
        assert shown(value).isprintable()


class TestDatabaseUrl:
    @pytest.mark.parametrize(
        "url",
        [
            URL,
            "postgres://h/x",
            "postgresql:///x?host=/var/run/postgresql",
            "postgresql://app:s3c?ret@h:5432/x",
            "host=@abstract dbname=x",
            "host=h user=u password=p dbname=x",
            "postgresql://a,b:5433/x?target_session_attrs=read-write",
        ],
    )
    def test_what_psycopg_takes_is_taken(self, url: str, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("DATABASE_URL", url)
        assert load_settings().database_dsn() == url

    @pytest.mark.parametrize(
        ("url", "must"),
        [
            ("postgresql+psycopg://app:s3cret@h/x", "must begin with postgresql://, without the name"),
            ("postgresql://app:s3c/ret@h:5432/x", LIKE),
            ("postgresql://app:s3c@ret@h:5432/x", LIKE),
            ("postgresql://app:s3%zzcret@h/x", LIKE),
            ("postgresql://app:s3cret@h/x?pool=5", LIKE),
            ("mysql://app:s3cret@h/x", LIKE),
            ("s3cret", LIKE),
            ("   ", "must not be empty; leave it out for the embedded PostgreSQL"),
        ],
    )
    def test_what_it_refuses_is_refused_without_a_word_of_it(
        self, url: str, must: str, environment: pytest.MonkeyPatch
    ) -> None:
        environment.setenv("DATABASE_URL", url)
        with pytest.raises(ConfigurationError) as caught:
            load_settings()
        assert str(caught.value).startswith(f"database_url in DATABASE_URL {must}")
        for part in ("s3", "cret", "app"):
            assert part not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_a_null_byte_is_refused(self) -> None:
        assert "must be like" in faults_of(write('database_url = "postgresql://h/x\\u0000y"'))[0]

    def test_it_is_never_shown(self) -> None:
        settings = Settings(database_url=URL)
        for text in (repr(settings), str(settings), settings.model_dump_json()):
            assert "s3cret" not in text
        with pytest.raises(ValidationError) as caught:
            Settings(database_url="postgresql+x://app:s3cret@h/x")
        assert "s3cret" not in str(caught.value)


class TestDatabaseUrlFile:
    @pytest.fixture(autouse=True)
    def secret(self) -> Path:
        path = Path("secret")
        path.write_text(URL + "\n")
        return path

    def test_its_content_is_the_address(self, environment: pytest.MonkeyPatch) -> None:
        assert load_settings(write('database_url_file = "secret"')).database_dsn() == URL
        environment.setenv("PROJECTIOND_DATABASE_URL_FILE", "secret")
        settings = load_settings(ROOT / "config" / "production.toml")
        assert settings.database_dsn() == URL
        assert "s3cret" not in repr(settings)
        assert Settings.from_wire(settings.to_wire()).database_dsn() == URL

    def test_it_stands_where_the_address_itself_would(self, environment: pytest.MonkeyPatch) -> None:
        file = write('database_url_file = "secret"')
        environment.setenv("DATABASE_URL", "postgresql://general/x")
        assert load_settings(file).database_dsn() == "postgresql://general/x"
        environment.setenv("PROJECTIOND_DATABASE_URL_FILE", "secret")
        assert load_settings(write('database_url = "postgresql://file/x"')).database_dsn() == URL

    def test_both_in_one_source_are_refused(self, environment: pytest.MonkeyPatch) -> None:
        assert faults_of(write('database_url_file = "secret"\ndatabase_url = "postgresql://h/x"')) == [
            "both database_url and database_url_file are set in x.toml: leave one of them out"
        ]
        environment.setenv("PROJECTIOND_DATABASE_URL", URL)
        environment.setenv("PROJECTIOND_DATABASE_URL_FILE", "secret")
        both = "PROJECTIOND_DATABASE_URL and PROJECTIOND_DATABASE_URL_FILE"
        assert faults_of() == [f"both {both} are set: leave one of them out"]

    def test_a_file_that_gives_nothing_is_named_with_all_other_faults(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_POOL_SIZE", "0")
        environment.setenv("PROJECTIOND_REQUIRE_DATABASE_URL", "true")
        environment.setenv("PROJECTIOND_DATABASE_URL_FILE", "none")
        assert faults_of() == [
            (
                "database_url_file names none, which cannot be read (No such file or directory): "
                "name one that the daemon's user may read"
            ),
            "pool_size is 0 in PROJECTIOND_POOL_SIZE: must be at least 4",
        ]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b" \n", "which is empty: write the value into it"),
            (b"\xff", "which is no text in UTF-8"),
            (b"x" * 100_000, "which is too long for a secret"),
        ],
    )
    def test_what_is_no_secret_is_refused(
        self, content: bytes, why: str, secret: Path, environment: pytest.MonkeyPatch
    ) -> None:
        secret.write_bytes(content)
        environment.setenv("PROJECTIOND_DATABASE_URL_FILE", "secret")
        assert faults_of() == [f"database_url_file names secret, {why}"]

    def test_what_is_no_address_is_refused_without_a_word_of_it(
        self, secret: Path, environment: pytest.MonkeyPatch
    ) -> None:
        secret.write_text("postgresql://app:s3c@ret@h/x")
        environment.setenv("PROJECTIOND_DATABASE_URL_FILE", "secret")
        (sentence,) = faults_of()
        assert sentence.startswith(f"database_url in the file secret {LIKE}")
        assert "ret@" not in sentence


class TestSettings:
    def test_are_immutable(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Settings().pool_size = 9  # type: ignore[misc]

    def test_are_described_and_bounded_for_the_manual(self) -> None:
        for model in (Settings, ProjectionSettings):
            for name, field in model.model_fields.items():
                assert field.description, name
        properties: dict[str, dict[str, Any]] = Settings.model_json_schema()["properties"]
        for name, schema in properties.items():
            if schema.get("type") in {"integer", "number"}:
                assert {"minimum", "maximum"} <= set(schema), name

    def test_made_by_hand_read_no_environment(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("PROJECTIOND_POOL_SIZE", "9")
        environment.setenv("POOL_SIZE", "9")
        assert Settings().pool_size == 5

    def test_reach_a_worker_whole_whatever_its_environment(self, environment: pytest.MonkeyPatch) -> None:
        settings = Settings(
            database_url=URL,
            pool_size=9,
            projections=(Path("a"), Path("ü")),
            projection={"orders": ProjectionSettings(batch_size=3)},
        )
        wire = settings.to_wire()
        environment.setenv("PROJECTIOND_POOL_SIZE", "10")
        environment.setenv("DATABASE_URL", "postgresql://other/x")
        arrived = Settings.from_wire(wire)
        assert arrived == settings
        assert arrived.database_dsn() == URL
        assert json.loads(wire)["projections"] == ["a", "ü"]
        assert Settings.from_wire(Settings().to_wire()) == Settings()


class TestHttpToken:
    def test_it_comes_from_anywhere_and_is_never_shown_nor_handed_to_workers(
        self, environment: pytest.MonkeyPatch
    ) -> None:
        environment.setenv("PROJECTIOND_HTTP_TOKEN", "s3cret" * 4)
        settings = load_settings(write('http_token_file = "nowhere"'))
        assert settings.http_token is not None
        assert settings.http_token.get_secret_value() == "s3cret" * 4
        for text in (repr(settings), settings.model_dump_json(), settings.to_wire()):
            assert "s3cret" not in text

    @pytest.mark.parametrize("token", ["s3cret" * 2, "s3 cret" * 4, "s3crét" * 4, "s3cret" * 100])
    def test_what_can_be_guessed_or_is_no_header_is_refused_without_a_word_of_it(self, token: str) -> None:
        (fault,) = faults_of(write(f'http_token = "{token}"'))
        assert fault.startswith("http_token in x.toml must be 16 to 512 printable ASCII characters")
        assert "s3" not in fault


def test_errors_keep_message_and_hint_on_their_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigurationError("pool_size is 0", hint="raise it")))  # noqa: S301 - our own
    assert type(error) is ConfigurationError
    assert (error.message, error.hint, str(error)) == (
        "pool_size is 0",
        "raise it",
        "pool_size is 0; raise it",
    )
    assert str(ConfigurationError("pool_size is 0")) == "pool_size is 0"
