"""``python -m edgekit.cli``."""

from edgekit.cli.main import main

main()
