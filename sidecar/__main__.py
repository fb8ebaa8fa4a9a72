"""``python -m sidecar COMMAND``."""

from __future__ import annotations

import argparse
import sys

from sidecar.cli import check, doctor, uwsgi_plugin

# Name, what it does, its module: with add_arguments(parser) and run(arguments) -> exit status.
COMMANDS = (
    ("uwsgi-plugin", "build sidecar_plugin.so for a uWSGI binary", uwsgi_plugin),
    ("check", "check a server's configuration without starting it", check),
    ("doctor", "show what Sidecar finds here, and what of it is wrong", doctor),
)


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sidecar", description="Sidecar's commands.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, module in COMMANDS:
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
