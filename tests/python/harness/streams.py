"""Answers as clients of asyncio read them: many at once, where ``wire`` reads one.

They are read for what they say; whether they are well-formed to the last byte is tested
with ``wire``.
"""

from __future__ import annotations

import asyncio


async def answer(reader: asyncio.StreamReader) -> tuple[bool, bytes]:
    """The next answer; whether it announces the end of the connection, and its body.

    Raises ``ValueError`` for one that is no 200.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, value in (line.split(":", 1) for line in lines if line)
    }
    if " 200 " not in f"{status_line} ":
        raise ValueError(f"answer {status_line}")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return headers.get("connection", "").lower() == "close", body
