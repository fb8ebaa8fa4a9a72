"""Django in one line: the request scope around a project, its async code on the worker's loop.

::

    MIDDLEWARE = [
        "sidecar.django.SidecarMiddleware",     # first: what stands above it has no scope
        ...
    ]

Under WSGI a request has a ``sidecar.Request``, ``request.sidecar``, also while its body is streamed, and what is
async runs on the worker's loop: views, middleware, streamed content. Code that Django ties to the request's thread,
database queries above all, runs on that thread: ``sync_to_async`` and the ORM's async methods see its connections and
transactions. Under ASGI the server's loop runs the views, and requests pass through.

How async code comes onto the loop. Django's handlers turn it into sync code by ``async_to_sync``, a name they look up
in their own module each time, for a view after all ``process_view`` hooks. There ``_to_sync`` stands in for it. The
other ways were worse: a ``process_view`` of ours would run the view before the hooks of the middleware below; the
handler's ``make_view_atomic`` knows of views only; asgiref's own class is everybody's. All other ``async_to_sync`` (a
project's own, a signal's receivers) find the worker's loop as asgiref finds a parent's: in its thread-local.

How sync code comes back. asgiref sends thread-sensitive code to ``AsyncToSync.executors.current``: for the time of a
request, to ``sidecar.to_caller``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import asgiref.local
from asgiref.sync import AsyncToSync, SyncToAsync, async_to_sync, iscoroutinefunction, markcoroutinefunction
from django import conf  # type: ignore[import-untyped,unused-ignore]
from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped,unused-ignore]
from django.core.handlers import base  # type: ignore[import-untyped,unused-ignore]
from django.core.handlers.asgi import ASGIRequest  # type: ignore[import-untyped,unused-ignore]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped,unused-ignore]

from sidecar import _core
from sidecar._calls import stream
from sidecar._loop import BridgeLoop
from sidecar._request import late_text, note_overload, overload_text, retry_after
from sidecar.errors import BridgeClosedError, ClientDisconnected, DeadlineExceeded, NoCallerError, Overloaded

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

__all__ = ["SidecarMiddleware"]

_T = TypeVar("_T")

class SidecarMiddleware:
    """The middleware. It serves sync and async chains, and opens a scope only where the server opened none."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        global _policy
        _policy = _read_policy()
        _install()
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        if self._is_async:
            return self._respond(request)
        if isinstance(request, ASGIRequest):
            _note(request)
            return _mark(request, self.get_response(request))
        return _serve(request, functools.partial(self.get_response, request))

    async def _respond(self, request: Any) -> Any:
        """In an async chain. Under WSGI ``_to_sync``, above the chain, has opened the scope."""
        _note(request)
        return _mark(request, await self.get_response(request))

    def process_exception(self, request: Any, exception: BaseException) -> Any:
        """The answer to a request whose deadline has passed, where the project has none; nothing to one that left."""
        if isinstance(exception, DeadlineExceeded):
            return HttpResponse(late_text(request.sidecar), status=504, content_type="text/plain; charset=utf-8")
        if isinstance(exception, Overloaded):
            note_overload(request.sidecar, exception)
            response = HttpResponse(overload_text(request.sidecar), "text/plain; charset=utf-8", 503)
            response.headers["Retry-After"] = retry_after(exception)
            return response
        if isinstance(exception, ClientDisconnected):
            return HttpResponse(status=499)
        return None


def _read_policy() -> _core.Policy:
    """``settings.SIDECAR``: a dict of the options of ``sidecar.Policy``."""
    options = getattr(conf.settings, "SIDECAR", {})
    if not isinstance(options, dict):
        raise ImproperlyConfigured(f"settings.SIDECAR must be a dict of options, not {options!r}")
    try:
        return _core.Policy(**options)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"settings.SIDECAR: {error}") from error


# Of the project's middleware, once it is made.
_policy = _core.Policy()


# -- the scope -------------------------------------------------------------------


def _note(request: Any) -> None:
    request.sidecar = _core.current()
    # Made from META when it was first asked for: perhaps before our id was there.
    request.__dict__.pop("headers", None)


def _mark(request: Any, response: Any) -> Any:
    if request.sidecar is not None:
        response.headers[_policy.request_id_header] = request.sidecar.id
    return response


def _serve(request: Any, respond: Callable[[], Any]) -> Any:
    """``respond()``'s response, made and streamed in the scope of the request: the server's, or else one of ours."""
    own = request.META.get("sidecar.request")
    if own is not None and own is _core.current():
        if getattr(request, "sidecar", None) is own:
            return respond()
        response, body = _serve_in_scope(request, respond)
    else:
        response, body = _open_scope(request, respond)
    if body is not None:
        # Its closers are the body's now, to be called in the scope.
        response._resource_closers.clear()
        response.streaming_content = body
    return response


def _open_scope(request: Any, respond: Callable[[], Any]) -> tuple[Any, Any]:
    responses = []

    def application(environ: dict[str, Any], start_response: object) -> Any:
        response, body = _serve_in_scope(request, respond)
        responses.append(_mark(request, response))
        return [] if body is None else body

    # Around a body that is no list the middleware puts one whose steps run in the scope.
    body = _core.WSGIMiddleware(application, policy=_policy)(request.META, _start_nothing)
    return responses[0], None if isinstance(body, list) else body


def _start_nothing(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
    raise AssertionError("Django's handler starts the response")


def _serve_in_scope(request: Any, respond: Callable[[], Any]) -> tuple[Any, _Body | None]:
    """The response, and what it streams where that is code of the application's."""
    _note(request)
    _home.set(threading.get_ident())
    # Lives in the context, and so as long as the scope.
    AsyncToSync.executors.current = _caller
    before = _show_loop()
    try:
        response = respond()
    finally:
        _hide_loop(before)
    if not getattr(response, "streaming", False):
        return response, None
    if getattr(response, "file_to_stream", None) is not None and "wsgi.file_wrapper" in request.META:
        # The server sends the file itself.
        return response, None
    return response, _Body(response)


class _Body:
    """A streamed body, read under WSGI: async content by ``sidecar.stream``, one item at a time.

    Django itself would collect all of that first.
    """

    def __init__(self, response: Any) -> None:
        self._closers = list(response._resource_closers)
        content = response._iterator
        if response.is_async:
            content = stream(content)
            self._closers.append(content.close)
        self._content = content

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> Any:
        before = _show_loop()
        try:
            return next(self._content)
        finally:
            _hide_loop(before)

    def close(self) -> None:
        """As the response's own: each of them, whatever the others raise."""
        closers, self._closers = self._closers, []
        before = _show_loop()
        for closer in closers:
            with contextlib.suppress(Exception):
                closer()
        _hide_loop(before)


# -- onto the loop ---------------------------------------------------------------


def _to_sync(function: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, _T]:
    """``async_to_sync`` for Django's handlers: what serves a WSGI request is run by ``sidecar.run_sync``.

    The first argument of all that they turn into sync code is the request.
    """

    @_core.frameless
    @functools.wraps(function, updated=())
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        request = args[0] if args else None
        if not isinstance(request, HttpRequest) or isinstance(request, ASGIRequest):
            return async_to_sync(function)(*args, **kwargs)
        response: _T = _serve(request, functools.partial(_run, function, *args, **kwargs))
        return response

    return call


@_core.frameless
def _run(function: Callable[_P, Coroutine[Any, Any, _T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    # Variables that it sets are set for the middleware, too, as asgiref has it.
    return _core.run_sync(function(*args, **kwargs), propagate=True)


def _show_loop() -> tuple[object, object]:
    """Have ``async_to_sync`` on this thread use the worker's loop: to asgiref, that of a coroutine that waits for us.

    Returns what was there before, for ``_hide_loop``.
    """
    place = SyncToAsync.threadlocal
    before = getattr(place, "main_event_loop", None), getattr(place, "main_event_loop_pid", None)
    try:
        place.main_event_loop = _core.get_bridge().get_loop()
        place.main_event_loop_pid = os.getpid()
    except BridgeClosedError:
        pass  # the interpreter exits
    return before


def _hide_loop(before: tuple[object, object]) -> None:
    place = SyncToAsync.threadlocal
    place.main_event_loop, place.main_event_loop_pid = before


# -- and back --------------------------------------------------------------------


class _CallerExecutor(Executor):
    """Runs jobs on the thread that waits for the coroutine that submits them."""

    # To an executor of asgiref's that was made while this one was current, and has ended: go no further here.
    _broken = True
    _old_executor = None
    _work_ready = threading.Lock()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        job = functools.partial(fn, *args, **kwargs)
        loop = _running_loop()
        if not isinstance(loop, BridgeLoop):
            # A loop of the application's own, where nobody waits; asgiref would do the same.
            return SyncToAsync.single_thread_executor.submit(job)
        future: Future[_T] = Future()
        task = loop.create_task(_run_on_caller(future, job))
        _errands.add(task)
        task.add_done_callback(_errands.discard)
        return future


async def _run_on_caller(future: Future[_T], job: Callable[[], _T]) -> None:
    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        await _core.to_caller(run)
    except asyncio.CancelledError:
        future.cancel()
        raise
    except NoCallerError:
        # A task that has outlived its call, and so the thread that it had.
        SyncToAsync.single_thread_executor.submit(run)


_caller = _CallerExecutor()
# A loop holds its tasks weakly.
_errands: set[asyncio.Task[None]] = set()


# -- asgiref's idea of a thread --------------------------------------------------

# The thread of the request that this code belongs to; 0: of none.
_home: ContextVar[int] = ContextVar("sidecar_django_home", default=0)


class _Threads:
    """``threading``, as ``asgiref.local`` may see it.

    A ``Local`` (the active language, time zone, URLconf) is a context variable that says on which thread it may be
    read; asgiref re-writes that wherever it moves code to another thread. A coroutine on a bridge moves at any
    ``await``. What asgiref means is the thread that the coroutine works for, and that one stays the same.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)

    def get_ident(self) -> int:
        home = _home.get()
        return home if home and isinstance(_running_loop(), BridgeLoop) else threading.get_ident()


def _running_loop() -> object:
    return asyncio._get_running_loop()


def _install() -> None:
    """Into the module of Django's handlers, and into asgiref's. Once, or again: the same."""
    base.async_to_sync = _to_sync
    if hasattr(asgiref.local, "_Storage"):  # since asgiref 3.12
        asgiref.local.threading = _threads  # type: ignore[assignment,attr-defined,unused-ignore]


_threads = _Threads()
