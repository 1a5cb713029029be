"""A program that brings its own server: `python main.py`, or `python main.py embedded`."""

import asyncio
import sys

import rsgun


async def app(scope, receive, send):
    """An ASGI application without a framework."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    body = f"Hello from {scope['path']}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def embedded():
    """Serves beside other tasks of the same event loop, on a port that is free."""
    server = rsgun.Server(rsgun.Config(app, port=0))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        host, port = server.servers[0].sockets[0].getsockname()
        print(f"try: curl http://{host}:{port}/")
    await serving


if __name__ == "__main__":
    if sys.argv[1:] == ["embedded"]:
        try:
            asyncio.run(embedded())
        except KeyboardInterrupt:
            pass
    else:
        rsgun.run("main:app", workers=2)
