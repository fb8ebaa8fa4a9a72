"""The core's cold paths: what C asks Python for by name (``core/support.h``)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import reprlib
import sys
import threading
import traceback
import types
from asyncio import base_events, format_helpers
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._options import bridge_options

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

logger = logging.getLogger("sidecar")

PACKAGE_FOLDER = os.path.join(os.path.dirname(__file__), "")

# CPython's free-threaded builds before 3.14 set an exception's traceback without a lock: one that is raised on
# two threads at once corrupts memory.
ERRORS_RACE = "t" in sys.abiflags and sys.version_info < (3, 14)

_HEAP_TYPE = 1 << 9  # among a type's flags: a class that Python code, or an extension, has made


def name_of(coro: object) -> str:
    """How a message names a coroutine: its qualified name and, if there is one, its file and line."""
    if getattr(coro, "cr_code", None) is _await.__code__:
        frame = getattr(coro, "cr_frame", None)
        return reprlib.repr(frame.f_locals["awaitable"]) if frame else "an awaitable"
    name = getattr(coro, "__qualname__", None) or type(coro).__qualname__
    code = getattr(coro, "cr_code", None)
    if not code or code.co_filename.startswith(PACKAGE_FOLDER):
        return name
    return f"{name}() at {code.co_filename}:{code.co_firstlineno}"


def breathe() -> None:
    """A few bytecodes: there the interpreter looks up, for threads that want its lock, for signals, for calls."""
    for _ in ("in", "out"):
        pass


# -- run_sync's argument ------------------------------------------------------


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def coroutine_of(awaitable: object) -> Coroutine[Any, Any, Any]:
    """A coroutine that awaits ``awaitable``; ``TypeError`` where that is none."""
    if isinstance(awaitable, Coroutine):
        return awaitable
    if isinstance(awaitable, Awaitable) or inspect.isawaitable(awaitable):
        return _await(awaitable)
    if asyncio.iscoroutinefunction(awaitable) if sys.version_info < (3, 14) else inspect.iscoroutinefunction(awaitable):
        hint = f"call it first: run_sync({getattr(awaitable, '__name__', 'function')}(...))"
    elif isinstance(awaitable, types.AsyncGeneratorType) or hasattr(awaitable, "__aiter__"):
        hint = "an async iterable is no awaitable: iterate it inside a coroutine"
    else:
        hint = "pass a coroutine, a future or an object with __await__"
    raise TypeError(f"run_sync() takes an awaitable, not {awaitable!r} ({hint})")


# -- pools ----------------------------------------------------------------------


def set_converted(future: asyncio.Future[Any], error: BaseException) -> None:
    """As asyncio's run_in_executor() has it: concurrent.futures' CancelledError becomes asyncio's."""
    future.set_exception(asyncio.futures._convert_future_exc(error))  # type: ignore[attr-defined]


# -- streams --------------------------------------------------------------------


def bound_close(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], seconds: float) -> None:
    """A stream whose consumer is gone is being closed: its generator gets so long for that."""

    def hurry() -> None:
        logger.warning("stream: %s does not close within %g s; it is cancelled", name_of(task.get_coro()), seconds)
        task.cancel()

    timer = loop.call_later(seconds, hurry, context=contextvars.Context())
    task.add_done_callback(lambda _: timer.cancel())


_missing = object()


def write_back(context: contextvars.Context) -> None:
    """What was set in ``context`` is set here, too, variable by variable; but whose task it was is not."""
    for var, value in context.items():
        if var.get(_missing) is not value and var is not _core._lineage:
            var.set(value)


def note_changes(context: contextvars.Context) -> None:
    """What is set here is set in ``context``, too, which nobody is in."""
    for var, value in contextvars.copy_context().items():
        if context.get(var, _missing) is not value and var is not _core._lineage:
            context.run(var.set, value)


def keep_changes(coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> Coroutine[Any, Any, Any]:
    """Await it, and set what it has set in ``context``. Closed before its first step, this closes it."""
    from sidecar._gather import Gathered

    return Gathered(_keep_changes(coro, context), name_of(coro), (coro,))


async def _keep_changes(coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> Any:
    try:
        return await coro
    finally:
        note_changes(context)


# -- texts --------------------------------------------------------------------


def deadlock_text(
    loop: asyncio.AbstractEventLoop, coro: object, is_step: int, held: asyncio.Task[Any] | None
) -> str:
    """``held``: on 3.14 and later, what runs in ``loop`` where its thread drives another one inside of that."""
    task = asyncio.current_task(loop) or held
    inside = name_of(task.get_coro()) if task else "a callback of the loop"
    call = f"a step of the stream of {name_of(coro)}" if is_step else f"run_sync({name_of(coro)})"
    return (
        f"{call} was called inside {inside}, on the thread that is just driving the "
        "loop it needs: it would wait for itself. Await it there instead"
    )


def cycle_text(chain: list[tuple[object, contextvars.Context | None]], by_lineage: int) -> str:
    """``chain``: the call that would close the cycle, and from each call the one that its loop's thread waits for.

    by_lineage: whether this thread works for the last one; else it holds that one's loop.
    """
    names = [f"run_sync({name_of(coro)}){_request_of(context)}" for coro, context in chain]
    waits = ", whose loop is held by a thread that waits for ".join(names)
    end = "for which this thread works just now" if by_lineage else "whose loop is held by this thread"
    return f"this call would wait for itself: {waits}, {end}"


def job_text(function: Any, first: Any, request: _core.Request | None, seconds: float) -> str:
    """What a thread of a pool is in the middle of. ``function``: ``None`` once it has returned.

    first: its first argument: a job that runs something in a context has it there.
    """
    while isinstance(function, functools.partial):
        function, first = function.func, function.args[0] if function.args else first
    if isinstance(getattr(function, "__self__", None), contextvars.Context) and callable(first):
        return job_text(first, None, request, seconds)
    what = "a callback of its future" if function is None else name_of(function)
    whose = f" of request {request.id}" if request is not None else ""
    return f"{what}{whose}, for {seconds:.1f} s"


def _request_of(context: contextvars.Context | None) -> str:
    for var, value in context.items() if context is not None else ():
        if var.name == "sidecar_request" and value is not None:
            return f" of request {value.id}"
    return ""


def timeout_text(coro: object) -> str:
    return f"{name_of(coro)} did not finish within its timeout and was cancelled"


def verdict_text(late: bool, coro: object) -> str:
    """Why a request's work is cancelled; ``coro`` is what was waited for, or ``None``: nothing was begun."""
    why = "the deadline of the request has passed" if late else "the client of the request has gone"
    return why if coro is None else f"{why}; {name_of(coro)} was cancelled"


def orphan_text(coro: object, seconds: float) -> str:
    return (
        f"{name_of(coro)} did not finish within its timeout, nor its cleanup within {seconds:g} s after that: "
        "it was left behind as an orphan"
    )


# -- notes for the operator ---------------------------------------------------


def note_orphan(coro: object) -> None:
    logger.warning("orphan: %s goes on though nobody waits for it any more", name_of(coro))


def note_orphan_end(coro: object, error: BaseException | None) -> None:
    if error is None or isinstance(error, asyncio.CancelledError):
        logger.info("orphan: %s has ended", name_of(coro))
    else:
        logger.error("orphan: %s has failed", name_of(coro), exc_info=error)


# -- the loop -----------------------------------------------------------------


def source_traceback() -> traceback.StackSummary:
    frame = sys._getframe().f_back
    return format_helpers.extract_stack(frame) if frame else traceback.StackSummary()


def report_failure(loop: asyncio.BaseEventLoop, handle: Any, error: BaseException) -> None:
    """What ``asyncio.Handle._run`` does when its callback fails."""
    callback = format_helpers._format_callback_source(handle._callback, handle._args or ())
    context = {"message": f"Exception in callback {callback}", "exception": error, "handle": handle}
    if handle._source_traceback:
        context["source_traceback"] = handle._source_traceback
    loop.call_exception_handler(context)


def check_callback(loop: Any, method: str, callback: object, threadsafe: int) -> None:
    """asyncio's checks of debug mode."""
    if not threadsafe:
        loop._check_thread()
    loop._check_callback(callback, method)


def note_duration(loop: asyncio.BaseEventLoop, handle: object, seconds: float) -> None:
    if seconds >= loop.slow_callback_duration:
        logger_of_asyncio: logging.Logger = base_events.logger  # type: ignore[attr-defined]
        logger_of_asyncio.warning("Executing %s took %.3f seconds", _format_handle(handle), seconds)


def run_unless_cancelled(handle: Any) -> None:
    """A handle of asyncio's own making, sent by another thread: it may be cancelled on its way."""
    if not handle._cancelled:
        handle._run()


def _format_handle(handle: Any) -> str:
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    return repr(owner) if isinstance(owner, asyncio.Task) else str(handle)


def is_patched_by_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and (monkey.is_module_patched("threading") or monkey.is_module_patched("socket"))


# -- threads ------------------------------------------------------------------


def native_lock() -> threading.Lock:
    """A lock that threads wait for, wherever this is: a greenlet that waits for gevent's may never be woken by one."""
    if is_patched_by_gevent():
        lock: threading.Lock = sys.modules["gevent.monkey"].get_original("_thread", "allocate_lock")()
        return lock
    return threading.Lock()


def start_thread(function: Callable[[], object], name: str) -> None:
    """A native thread, wherever this is: in a patched process ``threading`` has greenlets only."""
    if is_patched_by_gevent():
        sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")(function, ())
    else:
        threading.Thread(target=function, name=name, daemon=True).start()


def main_thread_ident() -> int:
    return threading.main_thread().ident or 0


def copy_error(error: BaseException) -> BaseException:
    """The same exception once more, made without running any ``__init__``; itself where it cannot be made.

    Another thread than those that have ``error`` may raise it. Cause, context and notes are shared.
    """
    kind = type(error)
    base = next(cls for cls in kind.__mro__ if not cls.__flags__ & _HEAP_TYPE)
    try:
        made: BaseException = base.__new__(kind, *error.args)
    except Exception:
        return error
    for cls in reversed(kind.__mro__):
        for name, field in vars(cls).items():
            if not isinstance(field, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                continue
            value = _value_of(field, error)
            if value is not _value_of(field, made):
                with contextlib.suppress(AttributeError, TypeError):  # __new__ has set it for good
                    field.__set__(made, dict(value) if name == "__dict__" else value)
    made.__suppress_context__ = error.__suppress_context__  # setting the cause has set it
    return made


def _value_of(field: types.MemberDescriptorType | types.GetSetDescriptorType, error: BaseException) -> Any:
    try:
        return field.__get__(error, type(error))
    except AttributeError:
        return None


def forget_thread() -> None:
    """A thread of ours ends: drop the stand-in that ``threading.current_thread()`` made for it."""
    ident = threading.get_ident()
    if isinstance(threading._active.get(ident), threading._DummyThread):  # type: ignore[attr-defined]
        del threading._active[ident]  # type: ignore[attr-defined]
    if "sidecar._gevent" in sys.modules:
        sys.modules["sidecar._gevent"].leave_thread()


def came_from_signal_handler(error: BaseException) -> bool:
    """A handler is called with the frame that it interrupts, which is the one below its own."""
    entry = error.__traceback__
    while entry is not None:
        frame, below = entry.tb_frame, entry.tb_frame.f_back
        for value in frame.f_locals.values() if below is not None else ():
            if value is below or (type(value) is tuple and value and value[-1] is below):
                return True
        entry = entry.tb_next
    return False


def _hold_list_of_threads() -> None:
    """Let no other thread have the lock of ``threading``'s list at the moment of a fork.

    From 3.13 on a child clears what its lost threads had before it makes that lock anew, and the stand-ins of
    threads of ours take it when they die: held by a lost thread, it would hold up the child for good.
    """
    held: list[Any] = []

    def take() -> None:
        lock = threading._active_limbo_lock  # type: ignore[attr-defined]
        lock.acquire()
        held.append(lock)

    def give_back() -> None:
        if held:
            held.pop().release()

    os.register_at_fork(before=take, after_in_parent=give_back, after_in_child=give_back)


if hasattr(threading, "_DeleteDummyThreadOnDel"):
    _hold_list_of_threads()


# -- bridges ------------------------------------------------------------------


# What the server's own configuration says of it; children inherit it.
_configured: dict[str, Any] = {}


def configure_bridge(options: dict[str, Any]) -> None:
    """Keyword arguments for this process's own bridge, which count before the environment's.

    Raises ValueError where one is wrong, or the environment's.
    """
    from sidecar._bridge import Sidecar

    Sidecar(**{**bridge_options(os.environ), **options})
    _configured.update(options)


def new_default_bridge() -> Sidecar:
    from sidecar._bridge import Sidecar

    return Sidecar(**{**bridge_options(os.environ), **_configured})
