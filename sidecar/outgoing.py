"""Outgoing calls that carry the request: its id, its trace, its baggage.

Each hook adds the headers of ``sidecar.current().headers()`` to every call that a client makes inside a request. A
header that the call has already stays as it is, and outside of a request nothing is added. A redirect that the client
follows is a call of its own, with a parent id of its own.

::

    httpx.Client(event_hooks={"request": [sidecar.outgoing.httpx_hook]})
    httpx.AsyncClient(event_hooks={"request": [sidecar.outgoing.httpx_async_hook]})
    aiohttp.ClientSession(trace_configs=[sidecar.outgoing.aiohttp_trace_config()])
    session = requests.Session()
    session.mount("https://", sidecar.outgoing.requests_adapter())
    urllib.request.Request(url, headers=sidecar.outgoing.headers())

What a client is given goes to whichever host it calls: put a hook on the clients of your own services.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from sidecar import _core

if TYPE_CHECKING:
    import aiohttp  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import httpx  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import requests  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import requests.adapters  # type: ignore[import-not-found,import-untyped,unused-ignore]

__all__ = [
    "add_headers",
    "aiohttp_trace_config",
    "headers",
    "httpx_async_hook",
    "httpx_hook",
    "requests_adapter",
]

# Where a hook keeps what it added, for the next hop of a redirect: httpx carries both headers and extensions over.
_ADDED = "sidecar.added"


def headers() -> dict[str, str]:
    """The headers of one outgoing call: ``current().headers()``, or an empty dict outside of a request."""
    request = _core.current()
    return {} if request is None else request.headers()


def add_headers(mapping: MutableMapping[str, Any]) -> None:
    """Add them to a mapping that has none of that name, in any case."""
    _add(mapping)


def httpx_hook(request: httpx.Request) -> None:
    """A request hook of ``httpx.Client``."""
    request.extensions[_ADDED] = _add(request.headers, request.extensions.get(_ADDED))


async def httpx_async_hook(request: httpx.Request) -> None:
    """A request hook of ``httpx.AsyncClient``."""
    httpx_hook(request)


def aiohttp_trace_config() -> aiohttp.TraceConfig:
    """For the ``trace_configs`` of an ``aiohttp.ClientSession``. Needs aiohttp."""
    import aiohttp

    async def start(session: Any, context: Any, params: Any) -> None:
        context.sidecar_added = _add(params.headers)

    async def redirect(session: Any, context: Any, params: Any) -> None:
        context.sidecar_added = _add(params.headers, context.sidecar_added)

    config = aiohttp.TraceConfig()
    config.on_request_start.append(start)
    config.on_request_redirect.append(redirect)
    return config


def requests_adapter(*args: Any, **kwargs: Any) -> requests.adapters.HTTPAdapter:
    """To ``mount`` on a ``requests.Session``. Arguments are those of ``requests.adapters.HTTPAdapter``.

    An adapter class of your own may call ``add_headers(request.headers)`` in its ``send`` instead. Needs requests.
    """
    from requests.adapters import HTTPAdapter

    def send(self: Any, request: requests.PreparedRequest, *rest: Any, **options: Any) -> requests.Response:
        # The session makes the next hop of a redirect from the request it knows: that one stays as it is.
        sent = request.copy()
        _add(sent.headers)
        return HTTPAdapter.send(self, sent, *rest, **options)

    adapter: type[HTTPAdapter] = type("SidecarAdapter", (HTTPAdapter,), {"send": send})
    return adapter(*args, **kwargs)


def _add(mapping: MutableMapping[str, Any], before: dict[str, str] | None = None) -> dict[str, str]:
    """Add what is not there; returns that. ``before`` is what an earlier hop added: that does not count as there."""
    for name, value in (before or {}).items():
        if mapping.get(name) == value:
            del mapping[name]
    present = {name.lower() for name in mapping}
    if "traceparent" in present:
        present.add("tracestate")  # it would be another trace's
    added = {name: value for name, value in headers().items() if name.lower() not in present}
    mapping.update(added)
    return added
