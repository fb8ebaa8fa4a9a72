"""Log records say which request they belong to, wherever they are made."""

import logging.config

import sidecar

LOGGING = {
    "version": 1,
    "filters": {"request": {"()": "sidecar.logging.RequestFilter"}},
    "formatters": {"line": {"format": "%(levelname)s %(request_id)s %(message)s"}},
    "handlers": {
        "out": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "filters": ["request"],
            "formatter": "line",
        }
    },
    "root": {"handlers": ["out"], "level": "INFO"},
}
logging.config.dictConfig(LOGGING)
log = logging.getLogger("shop")


async def charge() -> None:
    log.info("charged")


def app(environ, start_response):
    log.info("order received")
    sidecar.run_sync(charge())
    sidecar.run_sync(sidecar.to_async(log.info)("stored by a thread of the pool"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield f"order {sidecar.current().id}".encode()
    log.info("body sent")


application = sidecar.WSGIMiddleware(app, trust="10.0.0.0/8")


def get(address: str, request_id: str) -> dict[str, str]:
    """What a server does with a request."""
    answered: dict[str, str] = {}
    environ = {"REMOTE_ADDR": address, "HTTP_X_REQUEST_ID": request_id}
    body = application(environ, lambda status, headers: answered.update(headers))
    b"".join(body)
    body.close()
    return answered


log.info("started")  # -> INFO - started
answer = get("10.1.2.3", "order-7")
# -> INFO order-7 order received
# -> INFO order-7 charged
# -> INFO order-7 stored by a thread of the pool
# -> INFO order-7 body sent
print(answer["X-Request-ID"])  # -> order-7

log.setLevel("WARNING")
print(get("192.0.2.1", "order-7")["X-Request-ID"] == "order-7")  # -> False
