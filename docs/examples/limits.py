"""Limits: one slow upstream keeps to its places, and what is too much is refused at once."""

import asyncio
import logging
import threading
import time

import sidecar
from sidecar import Overloaded, limit, run_sync

answers = threading.Event()


async def charge(card: str) -> str:
    """Stands for a payment provider that is slow today."""
    while not answers.is_set():
        await asyncio.sleep(0.001)
    return f"charged {card}"


payments = limit("payments", 2)  # no more than two at a time, in this worker


def pay(card: str) -> str:
    with payments:
        return run_sync(charge(card))


# The same places, for coroutines, and as a decorator.
@payments
async def refund(card: str) -> str:
    return await charge(card)


async def cancel(card: str) -> str:
    async with payments:
        return await charge(card)


customers = [threading.Thread(target=pay, args=(card,)) for card in ("4111", "5500")]
for customer in customers:
    customer.start()
while payments.in_use < 2:
    time.sleep(0.001)

for attempt in (lambda: pay("3400"), lambda: run_sync(refund("4111")), lambda: run_sync(cancel("4111"))):
    try:
        attempt()
    except Overloaded as error:
        print(error, error.limit, error.retry_after)
# -> limit 'payments': all of its 2 places are taken [SC0009] payments 1.0
# -> limit 'payments': all of its 2 places are taken [SC0009] payments 1.0
# -> limit 'payments': all of its 2 places are taken [SC0009] payments 1.0

print(payments)  # -> <sidecar.Limit 'payments': 2 of 2 in use, 0 wait>
print(payments.refused)  # -> 3


# Wait for a place, in turn, but not for long.
def pay_patiently(card: str) -> None:
    with limit("payments", wait=20):
        print(run_sync(charge(card)))


patient = threading.Thread(target=pay_patiently, args=("3400",))
patient.start()
while payments.waiting < 1:
    time.sleep(0.001)
answers.set()
patient.join()  # -> charged 3400
for customer in customers:
    customer.join()

# -- what the client gets ---------------------------------------------------------

logging.getLogger("sidecar").setLevel(logging.ERROR)  # one 503 a second is a warning there


def shop(environ, start_response):
    with limit("stock", 1):
        inner = environ.get("inner")
        body = inner() if inner else b"sold"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def get(**environ) -> bytes:
    """Stands for a server."""
    sent = {}
    body = b"".join(application(environ, lambda status, headers: sent.update(headers, status=status)))
    print(sent["status"], sent.get("Retry-After"), body.decode().splitlines()[0])
    return body


application = sidecar.WSGIMiddleware(shop)
get(inner=lambda: get() and b"sold")
# -> 503 Service Unavailable 1 There is too much to do just now.
# -> 200 OK None sold

# -- the whole worker ---------------------------------------------------------------

bridge = sidecar.Sidecar(workers=1, max_calls=100, max_queue=0)
begun, released = threading.Event(), threading.Event()


def job() -> None:
    begun.set()
    released.wait()


bridge.submit(job)
begun.wait()
try:
    bridge.submit(job)
except Overloaded as error:
    print(error.limit, bridge.stats()["refused"])  # -> max_queue 1
released.set()
bridge.shutdown()
