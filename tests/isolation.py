"""Loaded before Django's settings: gives every test process a home of its own, and no one else's services."""

import atexit
import os
import shutil
import tempfile

_HOME = tempfile.mkdtemp(prefix="mht-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

for _name in [name for name in os.environ if name.startswith("MH_FAKE_")]:
    del os.environ[_name]
for _name in (
    "REDIS_URL",
    "DATABASE_URL",
    "MH_SECRET_KEY",
    "MH_HTTPS",
    "MH_NODE",
    "MH_HOST",
    "MH_PORT",
):
    os.environ.pop(_name, None)
# `mh test` runs the unit tests on a PostgreSQL server, too; SQLite is what a clone begins with.
if _url := os.environ.get("MH_TEST_DATABASE_URL"):
    os.environ["DATABASE_URL"] = _url
os.environ["MH_HOME"] = _HOME
os.environ["MH_NODE"] = "testnode"
