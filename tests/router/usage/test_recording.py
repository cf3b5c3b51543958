"""The queue of a process: what it promises about time, order and loss. No database here."""

import threading
from collections.abc import Sequence

from django.db import OperationalError

from router.usage.recording import BATCH, Record, Recorder
from tests.router.usage.conftest import made


class Store:
    """Takes batches, or is away."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.away = False
        self.came = threading.Event()

    def write(self, batch: Sequence[Record]) -> None:
        if self.away:
            raise OperationalError("away")
        self.batches.append(list(batch))
        self.came.set()

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]


def test_records_are_written_in_batches_and_in_order() -> None:
    store = Store()
    recorder = Recorder(store.write)
    records = [made() for _ in range(BATCH + 3)]
    for record in records:
        recorder.record(record)
    assert recorder.flush()
    assert [len(batch) for batch in store.batches] == [BATCH, 3]
    assert store.records == records


def test_a_store_that_is_away_loses_nothing_and_keeps_the_order() -> None:
    store = Store()
    recorder = Recorder(store.write)
    store.away = True
    records = [made() for _ in range(BATCH * 2)]
    for record in records:
        recorder.record(record)
        if record is records[BATCH]:
            assert not recorder.flush()
    assert not recorder.flush()
    store.away = False
    assert recorder.flush()
    assert store.records == records


def test_what_does_not_fit_is_refused_and_said_so(caplog: object) -> None:
    store = Store()
    recorder = Recorder(store.write, most=2)
    for _ in range(5):
        recorder.record(made())
    recorder.flush()
    assert len(store.records) == 2
    assert "3 records of usage did not fit" in caplog.text  # type: ignore[attr-defined]


def test_a_fault_of_ours_costs_one_batch_and_not_the_thread() -> None:
    store = Store()
    broken = [True]

    def write(batch: Sequence[Record]) -> None:
        if broken.pop() if broken else False:
            raise RuntimeError("ours")
        store.write(batch)

    recorder = Recorder(write)
    recorder.record(made())
    assert recorder.flush()
    recorder.record(made())
    assert recorder.flush()
    assert len(store.records) == 1


def test_a_started_recorder_writes_by_itself_and_at_once_when_a_batch_is_full() -> None:
    store = Store()
    recorder = Recorder(store.write, every=60)
    recorder.start()
    recorder.start()
    for _ in range(BATCH):
        recorder.record(made())
    assert store.came.wait(10)
    assert len(store.batches[0]) == BATCH
    quick = Store()
    other = Recorder(quick.write, every=0.01)
    other.start()
    other.record(made())
    assert quick.came.wait(10)


def test_a_request_its_server_forgets_is_recorded_at_the_end() -> None:
    store = Store()
    recorder = Recorder(store.write)

    class Forgotten:
        def end(self) -> None:
            recorder.record(made(outcome="cancelled"))

    recorder.under_way.add(Forgotten())
    recorder.close()
    assert [record.outcome for record in store.records] == ["cancelled"]


def test_many_threads_lose_nothing() -> None:
    store = Store()
    recorder = Recorder(store.write, every=0.001)
    recorder.start()

    def work() -> None:
        for _ in range(500):
            recorder.record(made())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.flush()
    assert len({record.uid for record in store.records}) == len(store.records) == 2000
