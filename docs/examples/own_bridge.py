"""A bridge of one's own: its own loop, its own pool, its own limits."""

import asyncio

from sidecar import Sidecar
from sidecar.errors import BridgeClosedError

with Sidecar(workers=2, name="reports", timeout=5.0) as bridge:
    print(bridge.run_sync(asyncio.sleep(0.01, "done")))  # -> done

try:
    bridge.run_sync(asyncio.sleep(0.01))
except BridgeClosedError as error:
    print(error)  # -> the bridge 'reports' was shut down; make another one [SC0002]
