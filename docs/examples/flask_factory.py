"""Flask, with an application factory, and with an idea of one's own of how async code is run."""

from flask import Flask

import sidecar
from sidecar.flask import Sidecar, async_to_sync

extension = Sidecar()


def create_app() -> Flask:
    app = Flask(__name__)
    extension.init_app(app)
    return app


class Counting(Flask):
    calls = 0

    def async_to_sync(self, func):
        self.calls += 1
        return async_to_sync(func)


async def own_id() -> str:
    return sidecar.current().id


app = create_app()
extension.init_app(app)  # once more changes nothing
app.add_url_rule("/", view_func=own_id)
print(len(app.test_client().get("/").headers.getlist("X-Request-ID")))  # -> 1

counting = Counting(__name__)
Sidecar(counting)
counting.add_url_rule("/", view_func=own_id)
counting.test_client().get("/")
print(counting.calls)  # -> 1
