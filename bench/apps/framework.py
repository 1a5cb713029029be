"""The newcomer's FastAPI application, with both kinds of endpoint."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/ping")
async def ping() -> dict[str, str]:
    """Answer from the event loop."""
    return {"message": "pong"}


@app.get("/ping-sync")
def ping_sync() -> dict[str, str]:
    """Answer from a thread."""
    return {"message": "pong"}
