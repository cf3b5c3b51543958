"""Which processes make the site, and the supervisor configuration that says so."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from mhsite import home

#: Megabytes a process's log may have before it is rotated, and how many old ones are kept.
LOG_MEGABYTES = 10
LOG_BACKUPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process of the site."""

    name: str
    #: Order of starting; they stop in the opposite one.
    priority: int
    #: Seconds it must run to count as started: longer than it takes to fail at an import.
    start_seconds: int
    #: Seconds between TERM and KILL.
    stop_seconds: int


BROKER = Program(name="broker", priority=10, start_seconds=1, stop_seconds=5)
WORKER = Program(name="worker", priority=20, start_seconds=5, stop_seconds=10)
OBSERVER = Program(name="observer", priority=30, start_seconds=5, stop_seconds=3)
WEB = Program(name="web", priority=40, start_seconds=5, stop_seconds=8)


def programs(*, embedded_broker: bool) -> tuple[Program, ...]:
    """Return the processes of this site."""
    return (BROKER, WORKER, OBSERVER, WEB) if embedded_broker else (WORKER, OBSERVER, WEB)


def config_path() -> Path:
    """Return where supervisor's configuration is written."""
    return home.folder("run") / "supervisor.conf"


def control_socket() -> Path:
    """Return the path of supervisor's control socket."""
    return home.run_socket("site.sock")


def log_path(name: str) -> Path:
    """Return the log of one process."""
    return home.folder("logs") / f"{name}.log"


def config_write(chosen: tuple[Program, ...]) -> None:
    """Write supervisor's configuration."""
    text = "\n".join([_supervisor_section(), *(_program_section(program) for program in chosen)])
    config_path().write_text(text)
    config_path().chmod(0o600)


def _supervisor_section() -> str:
    run = home.folder("run")
    return f"""\
; Written by mh up; changes are lost.
[supervisord]
logfile={_escape(log_path("supervisor"))}
logfile_maxbytes={LOG_MEGABYTES}MB
logfile_backups={LOG_BACKUPS}
pidfile={_escape(run / "supervisor.pid")}
directory={_escape(home.REPOSITORY)}
childlogdir={_escape(home.folder("logs"))}
identifier=mh

[unix_http_server]
file={_escape(control_socket())}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def _program_section(program: Program) -> str:
    command = shlex.join([sys.executable, "-m", "mhsite.processes.child", program.name])
    return f"""\
[program:{program.name}]
command={_escape(command)}
directory={_escape(home.REPOSITORY)}
priority={program.priority}
autostart=true
autorestart=true
startsecs={program.start_seconds}
startretries=3
stopsignal=TERM
stopwaitsecs={program.stop_seconds}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={_escape(log_path(program.name))}
stdout_logfile_maxbytes={LOG_MEGABYTES}MB
stdout_logfile_backups={LOG_BACKUPS}
"""


def _escape(value: object) -> str:
    """Return ``value`` for supervisor's file, in which ``%(name)s`` is replaced."""
    return str(value).replace("%", "%%")
