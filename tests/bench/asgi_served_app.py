"""The application that ``tests/bench/asgi_served`` serves: FastAPI's hello."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


async def bare(scope, receive, send):  # type: ignore[no-untyped-def]
    """The same answer without a framework: what a server costs by itself."""
    if scope["type"] == "lifespan":
        raise LookupError("no lifespan")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"hello":"world"}'})
