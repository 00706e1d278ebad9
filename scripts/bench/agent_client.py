"""Clients of a node that ask one thing after another on connections that they keep."""

import asyncio
import json
import time


class Refused(Exception):
    """An answer other than the one that was asked for."""


class Connection:
    """A connection that is kept: one request at a time."""

    def __init__(self, port: int, key: str):
        self.port, self.key = port, key
        self.reader = self.writer = None

    async def __aenter__(self) -> "Connection":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_unused) -> None:
        self.writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"", key: "str | None" = None):
        """The answer's status and body; `key` in place of the connection's, "" for none."""
        key = self.key if key is None else key
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        head += f"Authorization: Bearer {key}\r\n" if key else ""
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.writer.write(f"{head}\r\n".encode() + body)
        status = int((await self.reader.readline()).split()[1])
        length = 0
        while (line := await self.reader.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, await self.reader.readexactly(length)

    async def want(self, wanted: int, method: str, path: str, body=None, key=None) -> dict:
        """The JSON of an answer that has this status."""
        content = b"" if body is None else json.dumps(body).encode()
        status, answer = await self.ask(method, path, content, key)
        if status != wanted:
            raise Refused(f"{method} {path}: {status}, not {wanted}: {answer.decode()[:500]}")
        return json.loads(answer)


async def spread(port: int, key: str, connections: int, works: list, do) -> "tuple[list, float]":
    """Does all works on so many connections; returns what came of them, and the seconds."""
    waiting, outcomes = iter(works), []

    async def client() -> None:
        async with Connection(port, key) as connection:
            for work in waiting:
                outcomes.append(await do(connection, work))

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return outcomes, time.perf_counter() - begun
