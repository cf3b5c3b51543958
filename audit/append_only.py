"""The triggers that keep ``audit_event`` append-only in the database itself, whoever connects to it."""

from typing import Any, Final

TABLE: Final = "audit_event"
MESSAGE: Final = "audit events are append-only"

_SQLITE_INSTALL: Final = (
    f"""CREATE TRIGGER IF NOT EXISTS {TABLE}_no_update BEFORE UPDATE ON {TABLE}
        BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END""",
    f"""CREATE TRIGGER IF NOT EXISTS {TABLE}_no_delete BEFORE DELETE ON {TABLE}
        BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END""",
    # REPLACE deletes the row in its way without asking the trigger above.
    f"""CREATE TRIGGER IF NOT EXISTS {TABLE}_no_replace BEFORE INSERT ON {TABLE}
        WHEN EXISTS (SELECT 1 FROM {TABLE} WHERE id = NEW.id OR uid = NEW.uid OR hash = NEW.hash)
        BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END""",  # noqa: S608 - our own constants
)
_SQLITE_REMOVE: Final = tuple(
    f"DROP TRIGGER IF EXISTS {TABLE}_no_{verb}" for verb in ("update", "delete", "replace")
)
_POSTGRESQL_INSTALL: Final = (
    f"""CREATE OR REPLACE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '{MESSAGE}'; END $$""",
    f"""CREATE OR REPLACE TRIGGER {TABLE}_no_change BEFORE UPDATE OR DELETE ON {TABLE}
        FOR EACH ROW EXECUTE FUNCTION {TABLE}_refuse()""",
    f"""CREATE OR REPLACE TRIGGER {TABLE}_no_truncate BEFORE TRUNCATE ON {TABLE}
        FOR EACH STATEMENT EXECUTE FUNCTION {TABLE}_refuse()""",
)
_POSTGRESQL_REMOVE: Final = (
    f"DROP TRIGGER IF EXISTS {TABLE}_no_change ON {TABLE}",
    f"DROP TRIGGER IF EXISTS {TABLE}_no_truncate ON {TABLE}",
)
_STATEMENTS: Final = {
    "sqlite": (_SQLITE_INSTALL, _SQLITE_REMOVE),
    "postgresql": (_POSTGRESQL_INSTALL, _POSTGRESQL_REMOVE),
}


def install(connection: Any) -> None:
    """Create the triggers; harmless where they exist.

    Raises:
        NotImplementedError: the database is neither SQLite nor PostgreSQL (14 or newer).
    """
    _execute(connection, 0)


def remove(connection: Any) -> None:
    """Drop the triggers. For migrations that rewrite the table, and for tests that clean up."""
    _execute(connection, 1)


def _execute(connection: Any, which: int) -> None:
    if connection.vendor not in _STATEMENTS:
        msg = f"mh keeps its audit on SQLite or PostgreSQL, not on {connection.vendor}."
        raise NotImplementedError(msg)
    with connection.cursor() as cursor:
        for statement in _STATEMENTS[connection.vendor][which]:
            cursor.execute(statement)
