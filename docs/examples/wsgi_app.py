"""A WSGI application whose view runs async code; the middleware gives each request an id."""

import asyncio

import sidecar


async def lookup(page: str) -> str:
    await asyncio.sleep(0.01)
    assert sidecar.current() is not None  # the request, in coroutines too
    return f"page {page}\n"


def app(environ, start_response):
    request = environ["sidecar.request"]
    text = request.run_sync(lookup(environ["PATH_INFO"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]


application = sidecar.WSGIMiddleware(app)  # not needed under the uWSGI plugin or the gunicorn hook

if __name__ == "__main__":
    from wsgiref.util import setup_testing_defaults

    environ = {"PATH_INFO": "/17"}
    setup_testing_defaults(environ)
    sent = {}
    body = application(environ, lambda status, headers, exc_info=None: sent.update(headers, status=status))
    print(sent["status"], b"".join(body).decode().strip())  # -> 200 OK page /17
    assert len(sent["X-Request-ID"]) == 36
