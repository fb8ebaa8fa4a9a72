"""Views that use ``run_cpu``, under a real server. The engine is the environment's."""

from __future__ import annotations

import json
import os

from cpu_far import die, look, spin, wait

import sidecar

HEADERS = [("Content-Type", "application/json")]


def plain(folder):
    return {"pid": os.getpid(), "cpu": sidecar.get_bridge().stats()["cpu"]}


def check(folder):
    """The ids that are seen here, and over there, in each of the forms."""
    request = sidecar.current()

    async def inside():
        return await sidecar.run_cpu.aio(look)

    seen = [sidecar.run_cpu(look), sidecar.run_sync(inside()), sidecar.run_cpu.future(look).result()]
    seen += list(sidecar.get_bridge().map(look, range(3)))
    return {"id": request.id, "trace": request.trace_id, "seen": seen, "pid": os.getpid()}


def kill(folder):
    """A call whose worker dies, among others."""
    others = [sidecar.run_cpu.future(look) for _ in range(4)]
    try:
        sidecar.run_cpu(die)
        told = "nothing"
    except sidecar.CpuWorkerDied as error:
        told = str(error)
    return {"told": told, "others": len([future.result() for future in others]), "again": sidecar.run_cpu(look)}


def late(folder):
    """Longer than its deadline."""
    sidecar.run_cpu(wait, folder)


def leave(folder):
    """A call that goes on for as long as it is let: the server ends meanwhile."""
    sidecar.run_cpu(spin, folder)


def stats(folder):
    return dict(sidecar.get_bridge().stats())


VIEWS = {f"/{view.__name__}": view for view in (plain, check, kill, late, leave, stats)}


def application(environ, start_response):
    view = VIEWS[environ["PATH_INFO"]]
    body = json.dumps(view(os.environ["SIDECAR_TEST_FOLDER"])).encode()
    start_response("200 OK", [*HEADERS, ("Content-Length", str(len(body)))])
    return [body]
