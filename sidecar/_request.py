"""What a request leaves behind: it is cancelled, waited for, and named where it would not end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Union

from sidecar import _core
from sidecar._support import logger, name_of, start_thread
from sidecar.errors import Overloaded

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

    from sidecar._core import Request
    from sidecar._submit import Submitted

    _Task = asyncio.Task[Any]
    _Struck = Sequence[Union[_Task, Submitted]]
    _Send = Callable[[dict[str, Any]], Awaitable[object]]

__all__ = [
    "answer_late",
    "answer_late_by",
    "cancel",
    "end",
    "late_text",
    "note_overload",
    "overload_text",
    "retry_after",
]

# Seconds for a loop to tell what is left, beyond the bound of the wait.
_GRACE = 0.5


def cancel(request: Request, tasks: list[_Task], futures: list[Submitted], struck: _Struck, bound: float) -> None:
    """Cancel what the request has begun, from any thread, and each once.

    ``struck`` was cancelled before: a second time would cut its cleanup short. ``bound`` is for ``end()``.
    """
    for future in futures:
        if not future.cancelled():
            future.cancel()
    for task in tasks:
        try:
            task.get_loop().call_soon_threadsafe(_cancel_task, task, futures, context=contextvars.Context())
        except RuntimeError:
            pass  # its loop was closed, and has cancelled all that ran on it


def _cancel_task(task: _Task, futures: list[Submitted]) -> None:
    """On its loop: unless a future that was submitted, or the step of a stream, has cancelled it just now."""
    by_its_step = getattr(task.get_coro(), "_is_cancelled", bool)
    if not by_its_step() and not any(future._task is task for future in futures):
        task.cancel()


def end(request: Request, tasks: list[_Task], futures: list[Submitted], struck: _Struck, bound: float) -> None:
    """Cancel it, and wait at most ``bound`` seconds for its end.

    Not on a thread that runs an event loop, as a server of ASGI does: that one must go on, and may be the very one
    that they wait for. There another thread waits.
    """
    deadline = time.monotonic() + bound
    cancel(request, tasks, futures, struck, bound)
    if _runs_a_loop():
        wait = functools.partial(_wait_and_name, request, tasks, futures, struck, bound, deadline)
        start_thread(functools.partial(contextvars.Context().run, wait), "Sidecar-end")
    else:
        _wait_and_name(request, tasks, futures, struck, bound, deadline)


def _runs_a_loop() -> bool:
    if asyncio._get_running_loop() is not None:
        return True
    lowlevel: Any = sys.modules.get("trio.lowlevel")
    try:
        return lowlevel is not None and lowlevel.current_task() is not None
    except (AttributeError, RuntimeError):  # it is just being imported; none runs here
        return False


def _wait_and_name(
    request: Request, tasks: list[_Task], futures: list[Submitted], struck: _Struck, bound: float, deadline: float
) -> None:
    all_tasks = tasks + [one for one in struck if isinstance(one, asyncio.Task)]
    # Of a closed loop, or one that stayed with the parent of a fork, none runs any more.
    all_tasks = [task for task in all_tasks if not task.get_loop().is_closed()]
    running = [*futures, *(one for one in struck if not isinstance(one, asyncio.Task))]
    running = [future for future in running if not future.done()]
    by_loop: dict[asyncio.AbstractEventLoop, list[_Task]] = {}
    for task in all_tasks:
        by_loop.setdefault(task.get_loop(), []).append(task)
    waits = {_wait_on(loop, group, deadline - time.monotonic()): group for loop, group in by_loop.items()}
    concurrent.futures.wait(running, timeout=max(deadline - time.monotonic(), 0.0))
    # They end by themselves, just after that; a loop that stands still has told nothing, and none of its tasks ended.
    concurrent.futures.wait(waits, timeout=max(deadline - time.monotonic(), 0.0) + _GRACE)
    left: list[str] = []
    for wait, group in waits.items():
        if not wait.done():
            left += [name_of(task.get_coro()) for task in group]
        elif not wait.cancelled():  # it is where the bridge was shut down meanwhile, which names them itself
            left += wait.result()
    left += [_name_of_function(future._what) for future in running if not future.done()]
    if left:
        logger.warning(
            "request %s: %d of what it began still run %g s after its end: %s",
            request.id,
            len(left),
            bound,
            ", ".join(left),
        )


def _name_of_function(function: Any) -> str:
    """As ``name_of()`` names coroutines."""
    function = getattr(function, "func", function)
    code = getattr(function, "__code__", None)
    return f"{function.__qualname__}() at {code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _wait_on(
    loop: asyncio.AbstractEventLoop, tasks: list[_Task], limit: float
) -> concurrent.futures.Future[list[str]]:
    """Those that are not over by then, by name: a task is asked on its loop only."""

    async def wait() -> list[str]:
        _, pending = await asyncio.wait(tasks, timeout=max(limit, 0.0))
        return [name_of(task.get_coro()) for task in tasks if task in pending]

    coro = wait()
    try:
        return asyncio.run_coroutine_threadsafe(coro, loop)
    except RuntimeError:
        coro.close()  # the loop was closed
        nothing: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
        nothing.set_result([])
        return nothing


def late_text(request: Request) -> str:
    return f"The deadline of the request has passed.\nRequest: {request.id}\n"


def overload_text(request: Request) -> str:
    return f"There is too much to do just now.\nRequest: {request.id}\n"


def retry_after(error: Overloaded) -> str:
    """The header's value: whole seconds, from 1 on."""
    return str(max(math.ceil(error.retry_after), 1))


def answer_late(start_response: StartResponse, request: Request, error: BaseException, started: bool) -> bytes:
    """The deadline has passed, or there was no room, and nothing was sent: the body of an answer that says so.

    Raises ``error`` where the server has sent the headers already.
    """
    status, headers, body = _late_answer(request, error)
    line = f"{status.value} {status.phrase}"
    if started:
        assert error.__traceback__ is not None
        start_response(line, headers, (type(error), error, error.__traceback__))
    else:
        start_response(line, headers)
    _note_late(request, error)
    return body


async def answer_late_by(send: _Send, request: Request, error: BaseException, head: bool) -> None:
    """The same for ASGI, whole; ``head``: without a body. Nothing was sent."""
    status, headers, body = _late_answer(request, error)
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    _note_late(request, error)
    await send({"type": "http.response.start", "status": status.value, "headers": lines})
    await send({"type": "http.response.body", "body": b"" if head else body})


def _late_answer(request: Request, error: BaseException) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
    status, text = HTTPStatus.GATEWAY_TIMEOUT, late_text(request)
    headers = [("Content-Type", "text/plain; charset=utf-8")]
    if isinstance(error, Overloaded):
        status, text = HTTPStatus.SERVICE_UNAVAILABLE, overload_text(request)
        headers.append(("Retry-After", retry_after(error)))
    body = text.encode("latin-1")
    headers.append(("Content-Length", str(len(body))))
    return status, headers, body


def _note_late(request: Request, error: BaseException) -> None:
    if isinstance(error, Overloaded):
        note_overload(request, error)
    else:
        logger.warning("request %s: %s; answered with 504", request.id, error)


_quiet_until = 0.0
_unnamed = 0


def note_overload(request: Request, error: Overloaded) -> None:
    """Log it, at most once a second: what is refused for want of time must not cost any."""
    global _quiet_until, _unnamed
    _core._count_refused()
    now = time.monotonic()
    if now < _quiet_until:
        _unnamed += 1
        return
    others, _unnamed, _quiet_until = _unnamed, 0, now + 1.0
    more = f", as were {others} before it" if others else ""
    logger.warning("request %s: %s; answered with 503%s", request.id, error, more)
