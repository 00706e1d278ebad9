"""Clients that ask an OpenAI-compatible server for streams, many at once."""

import asyncio
import json
import time


class Failed(Exception):
    """A request that was not answered as it should be."""


class Stream:
    """When the pieces of one answer came, in seconds since it was asked for."""

    def __init__(self, times: "list[float]", took: float, completion_tokens: int):
        self.times = times
        self.took = took
        self.completion_tokens = completion_tokens

    @property
    def first(self) -> float:
        """When the first piece came, or the end where a model had nothing to say."""
        return self.times[0] if self.times else self.took

    def gaps(self) -> "list[float]":
        return [after - before for before, after in zip(self.times, self.times[1:])]


async def lines_of(reader: asyncio.StreamReader, is_chunked: bool):
    """The lines of a body, chunked or up to the connection's end."""
    if not is_chunked:
        while line := await reader.readline():
            yield line
        return
    rest = b""
    while True:
        head = await reader.readline()
        if not head:
            raise Failed("the answer broke off")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            break
        rest += await reader.readexactly(size)
        await reader.readexactly(2)
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


async def ask(port: int, body: dict, path: str = "/v1/completions") -> Stream:
    """Asks for a completion as a stream."""
    content = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    asked = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(head.encode() + content)
        await writer.drain()
        status = await reader.readline()
        is_chunked = False
        while (line := await reader.readline()).strip():
            is_chunked |= line.lower().startswith(b"transfer-encoding: chunked")
        if b" 200 " not in status:
            raise Failed(f"{status.decode().strip()}: {(await reader.read(2000)).decode()}")
        times, tokens, is_whole = [], 0, False
        async for line in lines_of(reader, is_chunked):
            if not line.startswith(b"data: {"):
                is_whole |= line.startswith(b"data: [DONE]")
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise Failed(str(event["error"]))
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            if any(choice.get("text") for choice in event.get("choices", [])):
                times.append(time.perf_counter() - asked)
        if not is_whole:
            raise Failed("the answer broke off")
        return Stream(times, time.perf_counter() - asked, tokens or len(times))
    finally:
        writer.close()


async def together(port: int, bodies: "list[list[dict]]") -> "tuple[list[Stream], float]":
    """Each client asks its bodies one after another; returns all answers, and how long it took."""
    begun = time.perf_counter()

    async def client(own: "list[dict]") -> "list[Stream]":
        return [await ask(port, body) for body in own]

    answers = await asyncio.gather(*map(client, bodies))
    took = time.perf_counter() - begun
    return [answer for own in answers for answer in own], took


def percentile(values: "list[float]", share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
