"""``python -m mhsite.cli`` is ``mh``."""

from mhsite.cli import main

main()
