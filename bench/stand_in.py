"""``python -m bench.stand_in FILE…``: a server that answers what it was given, byte by byte, and does nothing else.

Started by ``scrapes``, which scrapes it as it does the daemon: what the client costs the machine, and what sending so
many bytes costs, is then known apart from what the daemon's answering costs.  Each file holds one path's whole answer,
head included, in the order of ``scraper.PATHS``.  The first line that it writes is its port; the end of its input ends
it.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.scraper import HOST, PATHS


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self._answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer; a request of the scraper's comes whole, and is the only one on its way."""
        assert isinstance(self._transport, asyncio.Transport)  # noqa: S101 - for the type
        self._transport.write(self._answers[data.split(b" ", 2)[1].decode()])
        if b"Connection: close" in data:
            self._transport.close()


async def serve(answers: Mapping[str, bytes]) -> None:
    """Answer until the input ends."""
    server = await asyncio.get_running_loop().create_server(lambda: Answering(answers), HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve({path: Path(file).read_bytes() for path, file in zip(PATHS, sys.argv[1:], strict=True)}))
