"""Flask: one line, and async views, hooks and streams run on the worker's loop, in the scope of their request."""

import asyncio

from flask import Flask, Response, g, request, stream_with_context

import sidecar
from sidecar.flask import Sidecar

app = Flask(__name__)
Sidecar(app)


class Client:
    """Stands for an async client that is kept from request to request: its loop must be the same."""

    loop = None

    async def get(self, name: str) -> str:
        here = asyncio.get_running_loop()
        self.loop = self.loop or here
        assert self.loop is here
        await asyncio.sleep(0.001)
        return f"hello {name}"


client = Client()


@app.before_request
async def log_in() -> None:
    g.user = await client.get("ann")


@app.get("/async")
async def async_view() -> str:
    greetings = await asyncio.gather(client.get("bob"), client.get(request.args["name"]))
    return f"{greetings}, for {g.user}"


@app.get("/sync")
def sync_view() -> str:
    return sidecar.run_sync(client.get("dora"))


async def lines():
    for name in ("ann", "bob"):
        yield await client.get(name) + f" on {request.path}\n"


@app.get("/stream")
def stream() -> Response:
    return Response(stream_with_context(sidecar.stream(lines)))


@app.get("/id")
async def own_id() -> str:
    return sidecar.current().id


browser = app.test_client()
print(browser.get("/async?name=carl").text)  # -> ['hello bob', 'hello carl'], for hello ann
print(browser.get("/sync").text)  # -> hello dora
print(browser.get("/stream").text.splitlines())  # -> ['hello ann on /stream', 'hello bob on /stream']
answer = browser.get("/id")
print(answer.text == answer.headers["X-Request-ID"])  # -> True
