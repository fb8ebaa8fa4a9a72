"""anyio's blocking portals on a sidecar bridge, for asyncio: the names of ``anyio.from_thread``."""

from __future__ import annotations

from sidecar.compat.anyio.from_thread import BlockingPortal, BlockingPortalProvider, start_blocking_portal

__all__ = ["BlockingPortal", "BlockingPortalProvider", "start_blocking_portal"]
