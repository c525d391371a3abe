"""The command line: options to settings, one step, its summary to screen, JSON and exit code."""

import sys


def main() -> None:
    """Entry point of `spectron-migrate`."""
    if sys.argv[1:] == ["--version"]:
        from spectron_migrate import __version__

        sys.stdout.write(f"spectron-migrate {__version__}\n")
        return
    from spectron_migrate.cli.ending import by_sigterm_too, interrupted

    by_sigterm_too()
    try:
        from spectron_migrate.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the command itself
        from spectron_migrate.cli.conduct import fail

        code = fail("", interrupted(), as_json="--json" in sys.argv)
    sys.exit(code)
