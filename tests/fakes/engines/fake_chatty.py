"""A fake engine that logs as many lines as the test asks for, and says when it has."""

import sys

from reporting import report

connection = report("engine")
written = 0
for command in connection.makefile():
    for _ in range(int(command)):
        written += 1
        sys.stdout.write(f"line {written:07d} of a long story\n")
    sys.stdout.flush()
    connection.sendall(b'"written"\n')
