"""Departure: a long answer is given up when whoever asked for it has gone."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")


async def answer_or_departure(request: Request, answer: Coroutine[Any, Any, T]) -> T | None:
    """Await the answer; ``None`` when the client has gone before it was there."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        for task in (answering, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
