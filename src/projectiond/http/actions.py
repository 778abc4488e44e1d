"""The actions of the dashboard: what the commands of the same names do, by the same functions, told in words.

Only for who has the token (``token``), only for a projection that has a row in the database or that this daemon can
run, and each is in the log.
"""

from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from projectiond import checkpoint as checkpoints
from projectiond import logs
from projectiond.errors import ConfigurationError, DatabaseUnavailableError, ProjectiondError
from projectiond.http.crew import Crew
from projectiond.http.desk import Desk
from projectiond.http.details import Details
from projectiond.http.headers import Json
from projectiond.http.token import Token
from projectiond.operating import dead_letters, steering
from projectiond.postgres.database import Connection

LARGEST_NUMBER: Final = 2**63 - 1

_STATUS_OF: Final = ((DatabaseUnavailableError, 503), (ConfigurationError, 404))

log = logs.get_logger()


class Actions:
    """Carries them out."""

    def __init__(self, crew: Callable[[], Crew], desk: Desk, details: Details, token: Token) -> None:
        self._crew = crew
        self._desk = desk
        self._details = details
        self._token = token

    async def steer(self, request: Request) -> Response:
        """Pause, resume or rebuild a projection."""
        return await self._do(request, _STEERING[_action_of(request)])

    async def decide(self, request: Request) -> Response:
        """Retry or discard a dead letter."""
        number = _number_of(request)
        decide = _DECISIONS[_action_of(request)]
        return await self._do(request, lambda db, name: decide(db, name, number))

    async def letter(self, request: Request) -> Response:
        """Give the data of a dead letter's event: only for who has the token, since anything may be in it."""
        self._token.demand(request)
        name, number = request.path_params["name"], _number_of(request)
        try:
            data = await self._desk.ask(lambda db: dead_letters.read_data(db, name, number))
        except ProjectiondError as error:
            return _refusal(error)
        if data is None:
            raise HTTPException(404, f"there is no dead letter of event {number}")
        return Json({"text": data.text, "length": data.length, "is_cut": data.is_cut})

    async def _do(self, request: Request, act: Callable[[Connection, str], str]) -> Response:
        await self._token.demand_change(request)
        name, action = request.path_params["name"], _action_of(request)
        client = request.client.host if request.client else ""
        is_known = name in self._crew().names()

        def do(db: Connection) -> str:
            if not is_known and checkpoints.find(db, name) is None:
                raise ConfigurationError("there is no such projection")
            return act(db, name)

        try:
            said = await self._desk.ask(do)
        except ProjectiondError as error:
            log.warning(logs.HTTP_STEERED, projection=name, action=action, client=client, error=error.message)
            return _refusal(error)
        finally:
            self._details.forget(name)
        log.info(logs.HTTP_STEERED, projection=name, action=action, client=client, result=said)
        return Json({"result": said})


def _refusal(error: ProjectiondError) -> Response:
    status = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), 500)
    return Json({"error": error.message, "hint": error.hint}, status)


def _action_of(request: Request) -> str:
    return request.url.path.rpartition("/")[2]


def _number_of(request: Request) -> int:
    number = int(request.path_params["number"])
    if number > LARGEST_NUMBER:
        raise HTTPException(404, "there is no such event")
    return number


def _pause(db: Connection, name: str) -> str:
    steered = steering.pause(db, name)
    return f"{name} is paused at {steered.position}" if steered.is_changed else f"{name} was paused already"


def _resume(db: Connection, name: str) -> str:
    steered = steering.resume(db, name)
    return f"{name} goes on at {steered.position}" if steered.is_changed else f"{name} was not paused"


def _rebuild(db: Connection, name: str) -> str:
    steered = steering.rebuild(db, name)
    again = " again" if steered.before is not None and steered.before.status == "rebuilding" else ""
    return f"{name} is being rebuilt{again}, from the first event; its live tables are served meanwhile"


def _retry(db: Connection, name: str, number: int) -> str:
    if not dead_letters.ask_for_retry(db, name, [number]):
        raise ConfigurationError(f"{name} has no dead letter of event {number} any more")
    return f"event {number} is to be tried again; its letter goes, or gets the new error"


def _discard(db: Connection, name: str, number: int) -> str:
    if not dead_letters.discard(db, name, [number]):
        raise ConfigurationError(f"{name} has no dead letter of event {number} any more")
    return f"the letter of event {number} is discarded"


_STEERING: Final[dict[str, Callable[[Connection, str], str]]] = {
    "pause": _pause,
    "resume": _resume,
    "rebuild": _rebuild,
}
_DECISIONS: Final[dict[str, Callable[[Connection, str, int], str]]] = {"retry": _retry, "discard": _discard}

STEERING: Final = tuple(_STEERING)
DECISIONS: Final = tuple(_DECISIONS)
