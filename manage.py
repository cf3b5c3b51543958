#!/usr/bin/env python
"""Django's own command line; `mh` is the one for people."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")
    execute_from_command_line(sys.argv)
