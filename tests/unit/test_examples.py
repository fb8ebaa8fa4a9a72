"""The documentation's examples run, print what they say, and are the ones that its pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sidecar

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

NEEDS = (("gevent_app.py", "gevent"), ("opentelemetry_app.py", "opentelemetry.sdk"), ("celery_app.py", "celery"))
SHOWN = re.compile(r"^( *)```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs_and_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    for name, package in NEEDS:
        if example.name == name:
            pytest.importorskip(package, reason=f"there may be no {package} for this Python yet")
    said = re.findall(r"# -> (.*)$", example.read_text(), re.MULTILINE)
    # The package that is tested, wherever it is; never the checkout's folder beside the tests.
    environment = {**os.environ, "PYTHONPATH": str(Path(sidecar.__file__).parents[1])}
    # 3.15 makes an error of any fork beside a thread: to fork safely is what the example shows.
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-X", "dev", str(example)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == said


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_of_a_page_is_in_an_example(page: Path) -> None:
    sources = [example.read_text() for example in EXAMPLES]
    for _, block in SHOWN.findall(page.read_text()):
        code = textwrap.dedent(block)
        assert any(code in source for source in sources), f"{page.name}: no example runs this:\n{code}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
