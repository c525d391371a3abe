"""`python -m spectron_migrate`."""

from spectron_migrate.cli import main

main()
