"""An async generator as a sync one: items, early ends, send, errors."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

from sidecar import stream

log = []


async def tokens(prompt: str) -> AsyncIterator[str]:
    """What a language model's client gives, say."""
    try:
        for word in prompt.split():
            await asyncio.sleep(0.001)
            yield word
    finally:
        log.append("closed")


for token in stream(tokens("one two three")):
    print(token)
# -> one
# -> two
# -> three

# A function and its arguments, a coroutine that gives an async iterable, or any class with __aiter__.
print(list(stream(tokens, "four five")))  # -> ['four', 'five']


async def connect() -> AsyncIterator[str]:
    await asyncio.sleep(0.001)
    return tokens("six seven")


print(list(stream(connect())))  # -> ['six', 'seven']

# As a context manager it is closed at the block's end, and its cleanup waited for.
with stream(tokens, "a b c") as words:
    print(next(words))  # -> a
print(log[-1], list(words))  # -> closed []


async def average() -> AsyncIterator[float]:
    total, count = 0.0, 0
    while True:
        total += yield total / max(count, 1)
        count += 1


averages = stream(average())
next(averages)
print(averages.send(10), averages.send(20))  # -> 10.0 15.0
averages.close()

user: ContextVar[str] = ContextVar("user", default="nobody")


async def as_user(name: str) -> AsyncIterator[str]:
    token = user.set(name)  # one context for all steps: reset() works
    yield f"hello {user.get()}"
    user.reset(token)
    yield f"bye {user.get()}"


print(list(stream(as_user, "ann")), user.get())  # -> ['hello ann', 'bye nobody'] nobody


async def broken() -> AsyncIterator[int]:
    yield 1
    raise LookupError("the connection is gone")


rows = stream(broken())
print(next(rows))  # -> 1
try:
    next(rows)
except LookupError as error:
    print("raised as it was:", error)  # -> raised as it was: the connection is gone
print(next(rows, "over"))  # -> over
