"""What a coroutine sets in context variables stays its own, or comes back."""

import contextvars
from collections.abc import AsyncIterator

from sidecar import run_sync, stream, to_caller

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


async def log_in(name: str) -> None:
    user.set(name)


run_sync(log_in("ann"))
print(user.get())  # -> nobody

run_sync(log_in("ann"), propagate=True)
print(user.get())  # -> ann


# Of a stream: after each step.
async def shifts() -> AsyncIterator[str]:
    for name in ("bob", "cleo"):
        user.set(name)
        yield f"{name}'s shift"


for shift in stream(shifts, propagate=True):
    print(shift, user.get())  # -> bob's shift bob
    # -> cleo's shift cleo


# What a function sets by to_caller is set in the coroutine that awaits it.
async def impersonate() -> str:
    await to_caller(user.set, "dan")
    return user.get()


print(run_sync(impersonate()), user.get())  # -> dan cleo
