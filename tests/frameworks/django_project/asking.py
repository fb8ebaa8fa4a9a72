"""Sets the project up in this process; its requests, each answered by one view of the test's own."""

from __future__ import annotations

import os
import threading

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "frameworks.django_project.settings")
django.setup()

from asgiref.sync import SyncToAsync  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.test import Client, RequestFactory, override_settings  # noqa: E402
from django.urls import path  # noqa: E402

import sidecar  # noqa: E402

# asgiref keeps this thread once it has made it: not in the middle of a test.
ASGIREF_THREAD = SyncToAsync.single_thread_executor.submit(threading.get_ident).result()

PROJECT = "frameworks.django_project.middleware"
OWN, ASYNC, SYNC = "sidecar.django.SidecarMiddleware", f"{PROJECT}.AsyncOnly", f"{PROJECT}.SyncOnly"


def own_id() -> str:
    return sidecar.current().id


def bridge_loop() -> object:
    return sidecar.get_bridge().get_loop()


class Urls:
    """A URLconf of one view."""

    def __init__(self, view) -> None:
        self.urlpatterns = [path("", view)]


def ask(view, middleware=(OWN,), client=Client, **options):
    """The response to a request that this view answers."""
    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=list(middleware)):
        return client().get("/", **options)


def respond(view, environ=None, middleware=(OWN,)):
    """Django's WSGI handler's own result, and the request's id as the client sees it."""
    headers: dict[str, str] = {}
    request = RequestFactory().get("/")
    request.environ.update(environ or {})
    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=list(middleware)):
        body = WSGIHandler()(request.environ, lambda status, given: headers.update(given))
    return body, headers.get("X-Request-ID")
