"""Visit the demo once and tell what came back: ``python visit.py URL [--check LOGFILE]``.

With ``--check`` it also verifies the answer, and that uWSGI's access log has the same request id; the exit
status then is 1 if anything was not as promised.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

WIDTH = 48


def waterfall(result: dict[str, Any]) -> list[str]:
    """Both runs as lines of text, on one scale."""
    scale = max(result["together"]["total"], result["apart"]["total"])
    lines = []
    for title, run in (("all at once", result["together"]), ("one after another", result["apart"])):
        lines.append(f"{title}: {run['total'] * 1000:.0f} ms")
        for call in run["calls"]:
            left = round(WIDTH * call["begin"] / scale)
            length = max(round(WIDTH * (call["end"] - call["begin"]) / scale), 1)
            bar = (" " * left + "=" * length)[:WIDTH]
            took = (call["end"] - call["begin"]) * 1000
            lines.append(f"  item {call['item']:>2} |{bar:<{WIDTH}}| {took:>4.0f} ms")
    return lines


def log_lines_with(request_id: str, log: Path) -> list[str]:
    """The access log's lines with the id; uWSGI writes them when the answer is out, so wait a little."""
    deadline = time.monotonic() + 10
    while True:
        lines = [line for line in log.read_text(errors="replace").splitlines() if request_id in line]
        if lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.05)


def check(header: str | None, result: dict[str, Any], log: Path) -> list[tuple[str, bool]]:
    """Each promise, and whether it holds."""
    together, apart = result["together"], result["apart"]
    lines = log_lines_with(result["request_id"], log)
    longest = max(call["end"] - call["begin"] for call in together["calls"])
    return [
        ("the answer's header and body have one request id", header == result["request_id"]),
        ("uWSGI's access log has it, once", len(lines) == 1),
        ("the upstream saw it with every call", result["ids_seen"] == result["ids_expected"] == 20),
        ("ten calls were made in both ways", len(together["calls"]) == len(apart["calls"]) == 10),
        ("all at once took hardly longer than the longest call", together["total"] < longest + 0.5),
        ("all at once took less than half of one after another", together["total"] < apart["total"] / 2),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Visit the demo and tell what came back.")
    parser.add_argument("url")
    parser.add_argument("--check", metavar="LOGFILE", type=Path)
    arguments = parser.parse_args()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{arguments.url}/api", timeout=60) as response:
        header = response.headers["X-Request-ID"]
        result = json.load(response)
    print(f"request id  {result['request_id']}")
    print(f"its header  X-Request-ID: {header}")
    print(f"served by   {result['worker']}, pid {result['pid']}, thread {result['thread']}")
    print(f"the id went to the upstream with {result['ids_seen']} of {result['ids_expected']} calls")
    print("\n".join(waterfall(result)))
    print(f"all at once was {result['times_faster']:.1f} times as fast")
    if arguments.check is None:
        return 0
    promises = check(header, result, arguments.check)
    for promise, holds in promises:
        print(f"{'ok    ' if holds else 'NOT SO'} {promise}")
    return 0 if all(holds for _, holds in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
