"""Flask under real servers: one request, one id, wherever one looks; one loop for all async views."""

from __future__ import annotations

import pytest
from frameworks.served.hosts import FOLDER, check, check_file

flask = pytest.importorskip("flask", reason="flask is not installed")

APP = "frameworks.flask_app:app"
HOSTS = ["werkzeug", "waitress", "gthread", "gthread-hook", "gthread-twice"]


@pytest.mark.parametrize("host", HOSTS)
def test_one_request_one_id(start, host: str, upstream) -> None:
    twice = {"SIDECAR_TEST_TWICE": "1"} if host == "gthread-twice" else {}
    server = start(host, APP, **twice)
    check(server, upstream)
    check_file(server, "/file", (FOLDER / "flask_app.py").read_bytes())


def test_one_request_one_id_under_the_plugin(start_uwsgi, upstream) -> None:
    server = start_uwsgi(APP)
    check(server, upstream)
    check_file(server, "/file", (FOLDER / "flask_app.py").read_bytes())
