"""A fake engine that says why it cannot start and exits: ``fake_short_lived.py STATUS``."""

import sys

print("loading", flush=True)
print("ValueError: the weights are made of cheese", file=sys.stderr, flush=True)
sys.exit(int(sys.argv[1]))
