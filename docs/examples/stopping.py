"""A stream of events that would go on for ever, and ends by itself when its worker is asked to stop."""

import asyncio
import threading

import sidecar
from sidecar import run_sync


async def next_event(timeout: float) -> bytes:
    await asyncio.sleep(timeout / 100)  # stands for a queue
    return b"data: more\n\n"


def events(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    while not sidecar.is_stopping():
        yield run_sync(next_event(timeout=1))


ended = threading.Event()


@sidecar.on_worker_stop
def wait_for_streams() -> None:  # a server waits for its requests
    ended.wait(2)


stop = threading.Thread(target=sidecar.shutdown)
for number, event in enumerate(events({}, lambda status, headers: None)):
    if number == 2:
        stop.start()
ended.set()
stop.join()
print(event, number >= 2)  # -> b'data: more\n\n' True
