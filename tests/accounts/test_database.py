"""Where database calls of async code run, with a server's pool and without."""

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.db import connection

from accounts import database
from accounts.models import User


@pytest.fixture
def pool(transactional_db: None) -> Iterator[None]:
    database.pool_start()
    yield
    database.pool_stop()


pooled = pytest.mark.usefixtures("pool")


def where() -> tuple[int, int, bool]:
    """The thread, its connection, and whether that is open before the call's query."""
    was_open = connection.connection is not None
    User.objects.count()
    return threading.get_ident(), id(connection.connection), was_open


@pytest.mark.django_db
def test_without_a_pool_a_call_sees_the_transaction_it_is_in() -> None:
    User.objects.create_user("ann")
    ask = async_to_sync(database.in_database)
    assert ask(User.objects.filter(username="ann").exists)


@pooled
async def test_many_calls_share_a_few_threads_that_keep_their_connections() -> None:
    everybody = threading.Barrier(database.THREADS)

    def where_each() -> tuple[int, int, bool]:
        """Answer when every thread has been asked."""
        everybody.wait(10)
        return where()

    asked = (database.in_database(where_each) for _ in range(database.THREADS))
    first = await asyncio.gather(*asked)
    assert len({thread for thread, _, _ in first}) == database.THREADS
    again = await asyncio.gather(*(database.in_database(where) for _ in range(40)))
    assert {found[:2] for found in again} <= {found[:2] for found in first}
    assert all(was_open for _, _, was_open in again)


@pooled
async def test_a_call_that_hangs_holds_up_no_other() -> None:
    hang = threading.Event()
    hanging = [
        asyncio.ensure_future(database.in_database(hang.wait, 10))
        for _ in range(database.THREADS - 1)
    ]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(*(database.in_database(where) for _ in range(2)))
    finally:
        hang.set()
    assert all(await asyncio.gather(*hanging))


@pooled
async def test_an_error_comes_out_as_it_is_and_costs_no_thread() -> None:
    def wrong() -> None:
        raise KeyError("x")

    for _ in range(database.THREADS + 1):
        with pytest.raises(KeyError):
            await database.in_database(wrong)
    assert await database.in_database(User.objects.count) == 0


def test_one_read_answers_all_who_asked_before_it_and_nobody_who_asks_later() -> None:
    shared: database.SharedReads[int] = database.SharedReads()
    counted = itertools.count(1)

    def read() -> int:
        return next(counted)

    first, second = time.perf_counter(), time.perf_counter()
    assert shared.get("x", first, read) == 1
    assert shared.get("x", second, read) == 1
    assert shared.get("y", first, read) == 2
    later = time.perf_counter()
    assert shared.get("x", later, read) == 3


def test_a_read_that_fails_is_not_shared() -> None:
    shared: database.SharedReads[int] = database.SharedReads()
    asked = time.perf_counter()
    with pytest.raises(ZeroDivisionError):
        shared.get("x", asked, lambda: 1 // 0)
    assert shared.get("x", asked, lambda: 1) == 1


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """A database that somebody else writes to, watched as a server does."""
    path = tmp_path / "watched.sqlite3"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE things (name TEXT)")
    watch = database._Watch()
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    monkeypatch.setattr(database.connections["default"], "settings_dict", settings)
    watch.open()
    monkeypatch.setattr(database, "_watch", watch)
    yield writer
    watch.close()
    writer.close()


@pytest.mark.django_db
def test_what_was_read_is_known_until_the_next_commit_of_anybody(
    watched: sqlite3.Connection,
) -> None:
    shared: database.SharedReads[int] = database.SharedReads()
    counted = itertools.count(1)

    def look() -> int:
        return shared.get("x", time.perf_counter(), lambda: next(counted))

    with pytest.raises(database.NotKnownError):
        database.known(look)
    assert [look(), look(), database.known(look)] == [1, 1, 1]
    watched.execute("BEGIN")
    watched.execute("INSERT INTO things VALUES ('a')")
    assert look() == 1
    watched.execute("COMMIT")
    with pytest.raises(database.NotKnownError):
        database.known(look)
    assert [look(), database.known(look)] == [2, 2]


@pytest.mark.sqlite
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("pool")
def test_what_is_written_apart_leaves_the_known_known_and_hides_nothing_of_others() -> None:
    shared: database.SharedReads[int] = database.SharedReads()
    counted = itertools.count(1)

    def look() -> int:
        return shared.get("x", time.perf_counter(), lambda: next(counted))

    def write() -> None:
        User.objects.create(username=f"user-{time.perf_counter_ns()}")

    def elsewhere(call: Callable[[], None]) -> None:
        thread = threading.Thread(target=lambda: (call(), connection.close()))
        thread.start()
        thread.join()

    assert look() == 1
    for _ in range(2):
        with database.apart():
            write()
        assert database.known(look) == 1
    elsewhere(write)
    assert look() == 2
    seen = database._watch.version

    def seen_late() -> int | None:
        # Somebody commits between our commit and our look at the version.
        elsewhere(write)
        return seen()

    with pytest.MonkeyPatch.context() as patch, database.apart():
        write()
        patch.setattr(database._watch, "version", seen_late)
    assert look() == 3


@pytest.mark.django_db
def test_what_has_gone_bad_by_itself_is_read_again(watched: sqlite3.Connection) -> None:
    shared: database.SharedReads[int] = database.SharedReads(lambda found: found > 1)
    counted = itertools.count(1)

    def look() -> int:
        return shared.get("x", time.perf_counter(), lambda: next(counted))

    assert [look(), look(), look()] == [1, 2, 2]


async def test_on_the_event_loop_nothing_is_read_by_mistake() -> None:
    with pytest.raises(database.NotKnownError):
        database.known(User.objects.count)
