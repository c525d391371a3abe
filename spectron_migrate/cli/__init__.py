"""The command line: options to settings, one step, its summary to screen, JSON and exit code."""

import sys


def main() -> None:
    """Entry point of `spectron-migrate`."""
    if sys.argv[1:] == ["--version"]:
        from spectron_migrate import __version__

        sys.stdout.write(f"spectron-migrate {__version__}\n")
        return
    from spectron_migrate.cli.app import run

    sys.exit(run(sys.argv[1:]))
