"""Django under real servers: one request, one id, wherever one looks; one loop for all async views."""

from __future__ import annotations

import pytest
from frameworks.served.hosts import FOLDER, check, check_file
from server.process import Server

django = pytest.importorskip("django", reason="Django is not installed")

APP = "frameworks.django_project.wsgi:application"
HOSTS = pytest.mark.parametrize("host", ["waitress", "gthread", "gthread-hook"])
OWN = "sidecar.django.SidecarMiddleware"
CHAINS = pytest.mark.parametrize(
    "chain", [OWN, f"{OWN},frameworks.django_project.middleware.AsyncOnly"], ids=["sync", "async"]
)


def check_all(server: Server, upstream) -> None:
    check(server, upstream)
    check_file(server, "/file", (FOLDER / "django_project" / "views.py").read_bytes())
    check_file(server, "/in_memory_file", b"0123456789" * 1000)


@HOSTS
@CHAINS
def test_one_request_one_id(start, host: str, chain: str, upstream) -> None:
    check_all(start(host, APP, SIDECAR_TEST_MIDDLEWARE=chain), upstream)


@CHAINS
def test_one_request_one_id_under_the_plugin(start_uwsgi, chain: str, upstream) -> None:
    check_all(start_uwsgi(APP, SIDECAR_TEST_MIDDLEWARE=chain), upstream)


def check_languages(server: Server) -> None:
    wanted = [("de", "fr", "es", "it")[at % 4] for at in range(80)]
    answers = [response.json() for response in server.get_many([f"/language?language={name}" for name in wanted], 8)]
    assert [answer["wanted"] for answer in answers] == wanted
    for answer in answers:
        assert answer["seen"] == ["en", *[answer["wanted"]] * 6, "en"]


@HOSTS
def test_languages_do_not_mix(start, host: str) -> None:
    """asgiref's Locals stay with their request, whichever thread runs its coroutines."""
    check_languages(start(host, APP))


def test_languages_do_not_mix_under_the_plugin(start_uwsgi) -> None:
    check_languages(start_uwsgi(APP))
