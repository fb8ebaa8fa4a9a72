"""An ASGI application, with a lifespan and a part by part response, as one of WSGI."""

import sidecar
from sidecar.serve_asgi import ASGIApplication


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"])  # -> lifespan.startup
            scope["state"]["greeting"] = "hello"
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for word in (scope["state"]["greeting"], scope["path"]):
        await send({"type": "http.response.body", "body": word.encode(), "more_body": True})
    await send({"type": "http.response.body"})


application = ASGIApplication(app)

if __name__ == "__main__":
    from wsgiref.util import setup_testing_defaults

    environ = {"PATH_INFO": "/17"}
    setup_testing_defaults(environ)
    body = application(environ, lambda status, headers, exc_info=None: print(status))  # -> 200 OK
    print(b" ".join(body).decode())  # -> hello /17
    sidecar.shutdown()  # -> lifespan.shutdown
