"""FastAPI and Starlette, as sidecar.serve_asgi serves them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

import sidecar

FOLDER = Path(os.environ.get("SIDECAR_TEST_FOLDER", "."))


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "hello"}
    (FOLDER / f"stopped-{os.getpid()}").touch()


app = FastAPI(lifespan=lifespan)


class Marked(BaseHTTPMiddleware):
    """It runs the rest of the application in a task of its own."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-marked"] = current_id()
        return response


app.add_middleware(Marked)


def current_id() -> str:
    request = sidecar.current()
    return "none" if request is None else request.id


@app.get("/plain")
async def plain(request: Request) -> dict[str, Any]:
    return {"ids": [current_id(), request.scope["sidecar.request"].id], "greeting": request.state.greeting}


@app.get("/sync")
def sync() -> dict[str, Any]:
    """Starlette runs it in a thread of its own."""
    return {"ids": [current_id()]}


@app.post("/echo")
async def echo(request: Request) -> dict[str, Any]:
    body = await request.body()
    return {"length": len(body), "ids": [current_id()]}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for _ in range(5):
            yield f"{json.dumps([current_id()])}\n"
            await asyncio.sleep(0.001)

    return StreamingResponse(lines())


@app.get("/background")
async def background(tasks: BackgroundTasks) -> dict[str, Any]:
    async def later(id: str) -> None:
        while not (FOLDER / "go").exists():
            await asyncio.sleep(0.005)
        part = FOLDER / ".background"
        part.write_text(json.dumps([id, current_id()]))
        part.rename(FOLDER / "background")

    tasks.add_task(later, current_id())
    return {"ids": [current_id()]}


@app.get("/boom")
async def boom() -> None:
    raise LookupError("announced boom")
