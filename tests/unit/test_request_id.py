"""Request ids as the middleware gives them out."""

from __future__ import annotations

import os
import threading
import time
import uuid

import sidecar


def app(environ, start_response):
    start_response("200 OK", [])
    return []


def make(count: int = 1) -> list[str]:
    middleware = sidecar.WSGIMiddleware(app)
    ids = []
    for _ in range(count):
        environ: dict[str, str] = {}
        middleware(environ, lambda status, headers: None)
        ids.append(environ["HTTP_X_REQUEST_ID"])
    return ids


def test_it_is_a_uuid_of_version_7():
    before = time.time_ns() // 1_000_000
    (text,) = make()
    after = time.time_ns() // 1_000_000
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    # In a burst the counter may run ahead of the clock, by no more than what earlier tests made.
    assert before <= parsed.int >> 80 <= after + 1000


def test_ids_of_one_thread_sort_as_they_were_made():
    ids = make(10_000)
    assert sorted(set(ids)) == ids


def test_threads_never_make_the_same_id():
    made: list[str] = []
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        made.extend(make(2_000))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 16_000


def test_a_forked_child_draws_from_a_pool_of_its_own():
    make()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(make(50)).encode())
        os._exit(0)
    mine = make(50)
    assert os.waitpid(child, 0)[1] == 0
    text = os.read(reader, 50 * 36).decode()
    os.close(reader)
    os.close(writer)
    theirs = [text[at : at + 36] for at in range(0, len(text), 36)]
    # The last 62 bits are drawn from the pool: not one draw is shared.
    assert not {id[19:] for id in mine} & {id[19:] for id in theirs}
