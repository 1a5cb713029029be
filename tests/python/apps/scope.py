"""Answers with the scope as Python literals, so that tests see every type."""

from __future__ import annotations

from typing import Any


def literal(value: Any) -> Any:
    """The value with everything that has no literal replaced by its type."""
    if isinstance(value, dict):
        return {key: literal(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(literal, value))
    if value is None or isinstance(value, (str, bytes, int, float, bool)):
        return value
    return f"<{type(value).__name__}>"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = "yes"
        scope["state"]["list"] = ["shared"]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = repr(literal(scope)).encode()
    if scope["path"] == "/change-state":
        scope["state"]["own"] = "only this request"
        scope["state"]["list"].append("seen by all")
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"x-dict", b"%d" % (type(scope) is dict)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
