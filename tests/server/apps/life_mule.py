"""What a mule runs: it answers messages, and waits for the next one in its own way."""

from __future__ import annotations

import asyncio
import os

import checked
import life
import uwsgi

import sidecar


def until_ended() -> None:
    """In ``run_sync`` most of the time: a signal that ends the mule finds it there."""
    while True:
        sidecar.run_sync(asyncio.sleep(0.0005))


life.note(f"mule-{os.getpid()}", sidecar.run_sync(life.work("mule")))
sidecar.run_sync(checked.leave_behind())
while True:
    message = uwsgi.mule_get_msg().decode()
    life.note(message, sidecar.run_sync(life.work(message)))
    if message == "busy":
        until_ended()
