"""The settings: what can be set, within which bounds, and where a value comes from.

load_settings is called once, by the command line; a worker process gets the result over its pipe (to_wire,
from_wire) and reads neither file nor environment itself. For each setting the first of these decides:

    PROJECTIOND_<NAME>  >  DATABASE_URL (database_url only)  >  the TOML file  >  the default below

PROJECTIOND_DATABASE_URL_FILE, which names a file with the address in it, stands where PROJECTIOND_DATABASE_URL does.

The TOML file is that of --config, else that of PROJECTIOND_CONFIG, else there is none. Whatever is wrong, in all
sources together, is one ConfigurationError with one sentence for each fault; settings_faults words them.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from projectiond.errors import ConfigurationError
from projectiond.settings_faults import sentence_of_fault, sentence_of_unknown
from projectiond.settings_secrets import file_setting, overlay, read_secrets, refuse_both

PREFIX: Final = "PROJECTIOND_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
# Of tests, which the daemon takes no notice of.
TEST_PREFIX: Final = f"{PREFIX}TEST_"
URL_VARIABLE: Final = "DATABASE_URL"

# Kubernetes gives such variables to every pod in the namespace of a Service named "projectiond"; they are no
# operator's typing errors. Source: Kubernetes manual, Service, section "Environment variables".
SERVICE_VARIABLE: Final = re.compile(
    rf"{PREFIX}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

# Strict: `pool_size = true` and `pool_size = "5"` in a file are mistakes, not 1 and 5.
Count = Annotated[int, Strict()]
Seconds = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]


class ProjectionSettings(BaseModel):
    """What one projection does differently, from [projection.NAME]; None is "as for all"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: Count | None = Field(None, ge=1, le=100_000, description="events read at once")
    checkpoint_every: Count | None = Field(None, ge=1, le=100_000, description="events per transaction at the head")
    on_error: Literal["pause", "skip"] | None = Field(
        None, description="what happens to a poison event after the last attempt"
    )
    max_attempts: Count | None = Field(
        None, ge=1, le=100, description="how often a poison event is tried before on_error decides"
    )
    on_change: Literal["warn", "rebuild", "pause"] | None = Field(
        None, description="what happens when the code or the schema is not what built the tables"
    )
    synchronous_commit: Literal["on", "off"] | None = Field(
        None, description="whether to wait until a transaction is on the server's disk"
    )


class Settings(BaseSettings):
    """All settings of one process, checked and immutable; its defaults are those of development.

    Settings(...) takes values by keyword and reads nothing else; load_settings reads file and environment.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        # pydantic's own text of an error would show the password in a URL.
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(
        None, description="the database's address; none: an embedded PostgreSQL under .projectiond/"
    )
    database_url_file: str | None = Field(
        None, min_length=1, description="a file with the database's address in it, instead of database_url"
    )
    require_database_url: Flag = Field(
        default=False, description="whether to refuse to run without database_url (production)"
    )
    pool_size: Count = Field(5, ge=4, le=500, description="connections that a worker may hold")
    statement_timeout_seconds: Seconds = Field(
        30.0, ge=0.1, le=86_400, description="how long one SQL statement may run"
    )
    batch_size: Count = Field(50, ge=1, le=100_000, description="events read at once")
    checkpoint_every: Count = Field(10, ge=1, le=100_000, description="events per transaction at the head")
    catchup_transaction_seconds: Seconds = Field(
        0.5, ge=0.01, le=60, description="how long a transaction may grow while far behind"
    )
    rebuild_max_share: Seconds = Field(
        1.0, ge=0.01, le=1, description="share of the time that a rebuild beside the live tables may work"
    )
    rebuild_niceness: Count = Field(
        10, ge=0, le=19, description="how far a rebuild's process gives way to others, as of nice(1)"
    )
    snapshot_threshold: Count = Field(
        50, ge=1, le=1_000_000, description="events of a stream after which the event store takes a snapshot"
    )
    poll_interval_seconds: Seconds = Field(
        1.0, ge=0.01, le=3_600, description="how often to look for events without having been woken"
    )
    wakeup: Literal["notify", "poll"] = Field(
        "notify",
        description="how new events are noticed; poll where LISTEN is not wanted",
    )
    workers: Count = Field(1, ge=1, le=64, description="worker processes that the daemon starts")
    max_attempts: Count = Field(
        3, ge=1, le=100, description="how often a poison event is tried before on_error decides"
    )
    on_error: Literal["pause", "skip"] = Field(
        "pause", description="what happens to a poison event after the last attempt"
    )
    on_change: Literal["warn", "rebuild", "pause"] = Field(
        "warn", description="what happens when the code or the schema of a projection is not what built its tables"
    )
    synchronous_commit: Literal["on", "off"] = Field(
        "on", description="on: as the server has it; off: do not wait until a transaction is on the server's disk"
    )
    handler_timeout_seconds: Seconds = Field(
        60.0, ge=0.1, le=86_400, description="a runner without progress for so long gets its worker killed"
    )
    drain_seconds: Seconds = Field(
        20.0, ge=0, le=3_600, description="how long a stopping daemon lets transactions in hand finish"
    )
    http_host: str = Field("127.0.0.1", min_length=1, description="address of health and metrics")
    http_port: Count = Field(8790, ge=0, le=65_535, description="port of health and metrics; 0: none")
    http_allowed_hosts: str = Field(
        "",
        pattern=r"^(\*|[\w.-]+( *, *[\w.-]+)*)?$",
        description="names with a dot by which it may be asked over HTTP, between commas; *: by any",
    )
    http_token: SecretStr | None = Field(
        None, description="who has it may pause, resume, rebuild and read dead letters over HTTP; none: nobody may"
    )
    http_token_file: str | None = Field(
        None, min_length=1, description="a file with http_token in it, instead of http_token"
    )
    stall_seconds: Seconds = Field(
        120.0, ge=5, le=86_400, description="behind and without progress for so long, a projection fails /healthz"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="form of the log; auto: console on a terminal, else json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least severe level that is logged"
    )
    projections: tuple[Path, ...] = Field(
        (Path("projections"),),
        description="directories of plugins, relative to the current one; in a variable, between colons",
    )
    projection: dict[str, ProjectionSettings] = Field(
        {}, description="what single projections do differently; tables [projection.NAME], in a file only"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take keywords alone: a worker must not read the environment a second time."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _check_url(url.get_secret_value())
        return url

    @field_validator("http_token")
    @classmethod
    def _check_http_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[!-~]{16,512}", token.get_secret_value()):
            raise ValueError(
                "must be 16 to 512 printable ASCII characters without spaces, such as openssl rand -hex 32 gives"
            )
        return token

    @model_validator(mode="after")
    def _check_required(self) -> Self:
        if self.require_database_url and self.database_url is None and self.database_url_file is None:
            raise ValueError(
                f"database_url is not set, but require_database_url is true: set {URL_VARIABLE} to the "
                "database's address, or database_url_file to a file with it"
            )
        return self

    def database_dsn(self) -> str | None:
        """Return the database's address with its password, for psycopg alone; None means embedded."""
        return None if self.database_url is None else self.database_url.get_secret_value()

    def to_wire(self) -> str:
        """Return what a worker process needs as JSON, the password in clear: never log it."""
        secrets = {"database_url": self.database_dsn(), "http_token": None}
        return json.dumps({**self.model_dump(mode="json"), **secrets})

    @classmethod
    def from_wire(cls, text: str) -> Self:
        """Return the settings that to_wire wrote; reads neither file nor environment."""
        return cls(**json.loads(text))


def load_settings(config_file: Path | None = None) -> Settings:
    """Read file and environment, check everything, and return the settings.

    Args:
        config_file: the TOML file of --config; None leaves it to PROJECTIOND_CONFIG.

    Raises:
        ConfigurationError: something is wrong; its text has a sentence for each fault, a line each.
    """
    if config_file is None and (named := os.environ.get(CONFIG_VARIABLE)):
        config_file = Path(named)
    of_file = {} if config_file is None else _read_file(config_file)
    of_environment, origins = _read_environment(os.environ)
    faults = _unknown_variables(os.environ)
    faults += refuse_both(of_file, {}, str(config_file)) + refuse_both(of_environment, origins, "")
    values = overlay(of_file, of_environment)
    secrets = read_secrets(values)
    faults += secrets.faults
    origins |= secrets.origins
    settings = None
    try:
        settings = Settings(**{**values, **secrets.values})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0]) if detail["loc"] else "require_database_url"
            origin = origins.get(name, str(config_file))
            faults.append(sentence_of_fault(detail, origin=origin, known=_known_for(detail["loc"])))
    if settings is None or faults:
        # Not chained: the cause holds the rejected values, and a password may be among them.
        raise ConfigurationError("\n".join(faults)) from None
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no settings file {path}", hint="look at --config") from error
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"the settings file {path} is not valid TOML: {error}") from error


def _read_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values by setting, and by setting the variable that each came from; empty ones are unset."""
    variables = {name: f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name != "projection"}
    if not environment.get(variables["database_url"]):
        # One that is for us alone, in a file or not, beats the general one.
        in_file = environment.get(variables[file_setting("database_url")])
        variables["database_url"] = "" if in_file else URL_VARIABLE
    origins = {name: variable for name, variable in variables.items() if environment.get(variable)}
    return {name: _value_of(name, environment[variable]) for name, variable in origins.items()}, origins


def _value_of(name: str, text: str) -> Any:  # noqa: ANN401 - the checked model gives it its type
    if name == "projections":
        return [part for part in text.split(os.pathsep) if part]
    annotation: Any = Settings.model_fields[name].annotation
    try:
        return TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        return text  # the model's own check will say what is wrong with it


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name != "projection"]
    known.append(CONFIG_VARIABLE)
    return [
        sentence_of_unknown("environment variable", variable, known=known)
        for variable in sorted(environment)
        if variable.startswith(PREFIX)
        and not variable.startswith(TEST_PREFIX)
        and variable not in known
        and not SERVICE_VARIABLE.fullmatch(variable)
    ]


def _known_for(location: tuple[int | str, ...]) -> list[str]:
    is_of_one_projection = location[:1] == ("projection",) and len(location) > 1
    return list((ProjectionSettings if is_of_one_projection else Settings).model_fields)


def _check_url(url: str) -> None:
    if not url.strip():
        raise ValueError("must not be empty; leave it out for the embedded PostgreSQL")
    if re.match(r"\w+\+\w+://", url):
        raise ValueError("must begin with postgresql://, without the name of a driver")
    if not _is_address(url):
        # libpq's own words quote parts of the address, which may be of the password.
        raise ValueError(
            "must be like postgresql://user:password@host:5432/database, special characters percent-encoded"
        )


def _is_address(url: str) -> bool:
    try:
        parts = conninfo_to_dict(url)
    except (ProgrammingError, UnicodeError):
        return False
    # A "/" or "@" of the password that is not percent-encoded moves its rest into port or host, and libpq's
    # error at connecting would then show it. (An "@" in front is an abstract socket.)
    ports, hosts = str(parts.get("port", "")), str(parts.get("host", ""))
    is_split_well = re.fullmatch(r"[0-9,]*", ports) and not any("@" in host[1:] for host in hosts.split(","))
    return bool(parts) and bool(is_split_well) and "\0" not in url
