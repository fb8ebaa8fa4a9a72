"""From asgiref: one import changes, the code stays; then sidecar's own names."""

import asyncio
import sys
import threading

from sidecar.compat.asgiref.local import Local
from sidecar.compat.asgiref.sync import async_to_sync, sync_to_async

language = Local()


@sync_to_async
def save(name: str) -> str:
    language.code = "en"
    return f"saved {name} in {threading.current_thread().name}"


@async_to_sync
async def fetch(name: str) -> str:
    await asyncio.sleep(0.001)  # stands for a download
    return await save(name)


print(fetch("a"))  # -> saved a in MainThread
print(language.code)  # -> en


# Code that imports asgiref itself, like Django's: before anything else does.
def redirect() -> None:
    import sidecar.compat.asgiref

    sys.modules["asgiref"] = sidecar.compat.asgiref


redirect()

import asgiref.sync  # noqa: E402

print(asgiref.sync.async_to_sync is async_to_sync)  # -> True

# Later, by sidecar's own names:
import sidecar  # noqa: E402


def save_row(name: str) -> str:
    return f"saved {name} in {threading.current_thread().name}"


@sidecar.to_async
def resize(name: str) -> str:
    return f"resized {name}"


@sidecar.to_sync
async def fetch_all(*names: str) -> list:
    saved = [await sidecar.to_caller(save_row, name) for name in names]  # on the thread that waits
    return saved + await asyncio.gather(*map(resize, names))  # on the pool


print(fetch_all("a"))  # -> ['saved a in MainThread', 'resized a']
