"""Async context managers in sync code: for a block, or for as long as the bridge lives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sidecar
from sidecar import enter_context, wrap_context


@asynccontextmanager
async def pool(name: str) -> AsyncIterator[str]:
    task = asyncio.current_task()
    yield f"{name} pool"
    assert asyncio.current_task() is task  # entered and left in one task: cancel scopes work
    print("closed", name)


class Session:
    """Wants a running loop when it is made, as HTTP clients do."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        print("closed the session")


with wrap_context(pool("first")) as value:
    print(value)  # -> first pool
# -> closed first

with wrap_context(Session) as session:  # the class: it is called on the loop
    print(session.loop is sidecar.get_bridge().get_loop())  # -> True
# -> closed the session

print(enter_context(pool("outer")))  # -> outer pool
print(enter_context(pool("inner")))  # -> inner pool
sidecar.shutdown()  # or the end of the process; the last one entered is left first
# -> closed inner
# -> closed outer
