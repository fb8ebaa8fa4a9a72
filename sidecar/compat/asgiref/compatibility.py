"""``asgiref.compatibility``: ASGI 2 applications, called twice, as ASGI 3 ones."""

from __future__ import annotations

import inspect
from typing import Any

from sidecar.compat.asgiref.sync import iscoroutinefunction

__all__ = ["double_to_single_callable", "guarantee_single_callable", "is_double_callable"]


def is_double_callable(application: Any) -> bool:
    """Whether it takes the scope first, and ``receive`` and ``send`` in a second call.

    An application may say so itself, by ``_asgi_double`` or ``_asgi_single``. A class is one; so is what is callable
    and no async function.
    """
    if getattr(application, "_asgi_single", False):
        return False
    if getattr(application, "_asgi_double", False) or inspect.isclass(application):
        return True
    if iscoroutinefunction(application):
        return False
    return not iscoroutinefunction(getattr(application, "__call__", None))  # noqa: B004


def double_to_single_callable(application: Any) -> Any:
    """An ASGI 3 application around one of ASGI 2."""

    async def new_application(scope: Any, receive: Any, send: Any) -> Any:
        return await application(scope)(receive, send)

    return new_application


def guarantee_single_callable(application: Any) -> Any:
    """It, or an ASGI 3 application around it."""
    return double_to_single_callable(application) if is_double_callable(application) else application
