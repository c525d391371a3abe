"""The command line: options become settings, a step runs, and its summary becomes tables or JSON and an exit code."""

import sys


def main() -> None:
    """Entry point of `spectron-migrate`."""
    if sys.argv[1:] == ["--version"]:
        from spectron_migrate import __version__

        sys.stdout.write(f"spectron-migrate {__version__}\n")
        return
    from spectron_migrate.cli.signals import interrupted, treat_sigterm_as_ctrl_c

    treat_sigterm_as_ctrl_c()
    try:
        from spectron_migrate.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command began, or after it ended
        from spectron_migrate.cli.runner import print_error

        code = print_error("", interrupted(), as_json="--json" in sys.argv)
    sys.exit(code)
