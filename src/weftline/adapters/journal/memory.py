"""A journal that lives and ends with its process: for tests, and for runs nobody wants kept."""

import copy
import threading
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from weftline.adapters.journal.names import (
    ENDED,
    NAMES_OBJECTS,
    begins_actor,
    logs_in,
    objects_in,
)
from weftline.core.events import RunStatus
from weftline.errors import StorageError
from weftline.ports.journal import (
    FROM_BASE,
    INBOX_AT_ONCE,
    Batch,
    Creation,
    Entry,
    InboxEntry,
    InboxKind,
    Posted,
    RunChange,
    RunRecord,
    Summary,
)
from weftline.ports.objects import Removed, StoredFile
from weftline.ports.upkeep import EndedRun, Held, Unnamed

_NAMES_GRAPH = ("RunSubmitted", "GraphExtended")


class _GraphName(msgspec.Struct):
    """What is read of an event that names a graph."""

    graph: str


@dataclass(slots=True)
class _StoredRun:
    number: int
    creation: Creation
    metadata: bytes  # JSON, so that nobody shares a dictionary with the journal
    summary: Summary
    epoch: int
    engine: str | None
    entries: list[Entry]
    objects: set[str]


class MemoryJournal:
    """The events of all runs in dictionaries, behind one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, _StoredRun] = {}
        self._graphs: dict[str, list[bytes]] = {}
        self._engines: dict[str, Callable[[], None] | None] = {}
        self._inbox: list[InboxEntry] = []
        self._keys: set[tuple[str, str]] = set()
        self._posted = 0
        self._created = 0
        self._changes = 0

    # -- Journal ----------------------------------------------------------------------------

    def commit(self, batch: Batch) -> set[str]:
        # Whatever can fail does so before anything is changed.
        metadata = [
            b"" if change.creation is None else msgspec.json.encode(change.creation.metadata)
            for change in batch.changes
        ]
        refused = set()
        with self._lock:
            self._changes += 1
            for graph, pages in batch.graphs:
                self._graphs.setdefault(graph, list(pages))
            for change, encoded in zip(batch.changes, metadata, strict=True):
                if not self._apply(change, encoded):
                    refused.add(change.run_id)
            for run_id, name in batch.objects:
                if run_id not in refused and run_id in self._runs:
                    self._runs[run_id].objects.add(name)
        return refused

    def _apply(self, change: RunChange, metadata: bytes) -> bool:
        run = self._runs.get(change.run_id)
        first = change.entries[0].seq if change.entries else None
        if change.creation is not None:
            if run is not None or first not in (1, None):
                return False
            self._created += 1
            self._runs[change.run_id] = _StoredRun(
                number=self._created,
                creation=change.creation,
                metadata=metadata,
                summary=copy.copy(change.summary),
                epoch=1,
                engine=change.engine,
                entries=list(change.entries),
                objects=set(),
            )
            return True
        if run is None or run.epoch != change.epoch or first not in (len(run.entries) + 1, None):
            return False
        run.entries.extend(change.entries)
        run.summary = copy.copy(change.summary)
        if change.takes:
            run.epoch += 1
            run.engine = change.engine
            if change.detached:
                run.creation = msgspec.structs.replace(run.creation, detached=True)
        if change.taken:
            self._inbox = [each for each in self._inbox if each.number not in change.taken]
        return True

    def read(self, run_id: str, after_seq: int = 0) -> tuple[RunRecord, list[Entry]] | None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return None
            is_base = after_seq == FROM_BASE
            after = max(0, run.summary.base_seq - 1) if is_base else after_seq
            return _record(run_id, run), run.entries[after:]

    def read_graph(self, graph_hash: str) -> list[bytes]:
        with self._lock:
            pages = self._graphs.get(graph_hash)
        if pages is None:
            raise StorageError(f"the journal has no graph {graph_hash}")
        return list(pages)

    def read_inbox(self, engine: str) -> list[InboxEntry]:
        with self._lock:
            found = [each for each in self._inbox if self._owner(each.run_id) == engine]
            return found[:INBOX_AT_ONCE]

    def register(self, engine: str, on_news: Callable[[], None] | None = None) -> None:
        with self._lock:
            self._engines[engine] = on_news

    def release(self, engine: str) -> None:
        with self._lock:
            self._engines.pop(engine, None)

    def is_alive(self, engine: str) -> bool:
        with self._lock:
            return engine in self._engines

    # -- RunCatalogue -----------------------------------------------------------------------

    def find_run(self, run_id: str) -> RunRecord | None:
        with self._lock:
            run = self._runs.get(run_id)
            return None if run is None else _record(run_id, run)

    def first_event(self, run_id: str) -> Entry | None:
        with self._lock:
            run = self._runs.get(run_id)
            return run.entries[0] if run is not None and run.entries else None

    def list_runs(
        self,
        *,
        statuses: Iterable[RunStatus] | None = None,
        workflow: str | None = None,
        detached: bool | None = None,
        limit: int | None = None,
        before: float | None = None,
    ) -> list[RunRecord]:
        wanted = None if statuses is None else set(statuses)
        with self._lock:
            found = [
                (run.creation.created_at, run.number, run_id)
                for run_id, run in self._runs.items()
                if (wanted is None or run.summary.status in wanted)
                and (workflow is None or run.creation.workflow == workflow)
                and (detached is None or run.creation.detached == detached)
                and (before is None or run.creation.created_at < before)
            ]
            found.sort(reverse=True)
            return [_record(run_id, self._runs[run_id]) for _, _, run_id in found[:limit]]

    def delete_run(self, run_id: str, epoch: int) -> bool:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None or run.epoch != epoch:
                return False
            del self._runs[run_id]
            self._inbox = [each for each in self._inbox if each.run_id != run_id]
            self._keys = {each for each in self._keys if each[0] != run_id}
            self._changes += 1
            named = {name for other in self._runs.values() for name in _graphs_of(other)}
            for graph in _graphs_of(run) - named:
                self._graphs.pop(graph, None)
            return True

    def post(
        self,
        run_id: str,
        kind: InboxKind,
        body: bytes,
        key: str | None = None,
        *,
        unless: Collection[RunStatus] = (),
    ) -> Posted | None:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                return None
            status, engine = run.summary.status, run.engine
            if status in unless or (key is not None and (run_id, key) in self._keys):
                return Posted(False, status, engine)
            if key is not None:
                self._keys.add((run_id, key))
            self._posted += 1
            self._inbox.append(InboxEntry(self._posted, run_id, kind.value, body))
            self._changes += 1
            on_news = self._engines.get(engine or "")
        if on_news is not None:
            on_news()
        return Posted(True, status, engine)

    def knows_key(self, run_id: str, key: str) -> bool:
        with self._lock:
            return (run_id, key) in self._keys

    def list_inbox(self, run_id: str) -> list[InboxEntry]:
        with self._lock:
            return [each for each in self._inbox if each.run_id == run_id]

    def list_unread(self) -> list[str]:
        with self._lock:
            unread = dict.fromkeys(each.run_id for each in self._inbox)
            return [run_id for run_id in unread if self._runs[run_id].creation.detached]

    def _owner(self, run_id: str) -> str | None:
        run = self._runs.get(run_id)
        return None if run is None else run.engine

    def change_count(self) -> int:
        return self._changes

    def close(self) -> None:
        with self._lock:
            self._engines.clear()


class MemoryJournalUpkeep:
    """The upkeep of one journal. It keeps environments within its runs, so none is left over."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal

    def ended_runs(self, statuses: Iterable[RunStatus], before: float) -> list[EndedRun]:
        wanted, found = set(statuses), []
        with self._journal._lock:
            for run_id, run in self._journal._runs.items():
                status, at = run.summary.status, run.summary.ended_at
                first = run.entries[0].body if run.entries else None
                if status in wanted and at is not None and at < before and not begins_actor(first):
                    size = sum(len(entry.body) for entry in run.entries)
                    found.append(EndedRun(run_id, run.epoch, status, at, size))
        return sorted(found, key=lambda run: run.ended_at)

    def delete_runs(self, runs: Sequence[EndedRun]) -> Removed:
        gone = [run for run in runs if self._journal.delete_run(run.run_id, run.epoch)]
        return Removed(len(gone), sum(run.size_bytes for run in gone))

    def held_objects(self, without: Container[str] = ()) -> Held:
        with self._journal._lock:
            return self._held(without)

    @contextmanager
    def unheld(self, files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
        with self._journal._lock:
            held = self._held(())
            yield [each for each in files if not held.holds(each)]

    def _held(self, without: Container[str]) -> Held:
        by_any, by_unfinished = set[str](), set[str]()
        for entry in self._journal._inbox:
            if entry.kind in NAMES_OBJECTS and entry.run_id not in without:
                by_unfinished.update(objects_in(entry.body))
        by_any |= by_unfinished
        for run_id, run in self._journal._runs.items():
            if run_id not in without:
                by_any |= run.objects
                if run.summary.status not in ENDED or run.summary.base_seq:
                    by_unfinished |= run.objects
        return Held(by_any, by_unfinished)

    def unnamed(self, without: Container[str] = ()) -> Unnamed:
        with self._journal._lock:
            return Unnamed(self._removed(self._unnamed(without)), Removed(0, 0))

    def drop_unnamed(self) -> Unnamed:
        with self._journal._lock:
            unnamed = self._unnamed(())
            removed = self._removed(unnamed)
            for graph in unnamed:
                del self._journal._graphs[graph]
        return Unnamed(removed, Removed(0, 0))

    def _unnamed(self, without: Container[str]) -> list[str]:
        runs = self._journal._runs.items()
        named = [_graphs_of(run) for run_id, run in runs if run_id not in without]
        return list(set(self._journal._graphs).difference(*named))

    def _removed(self, graphs: Iterable[str]) -> Removed:
        sizes = [sum(map(len, self._journal._graphs[graph])) for graph in graphs]
        return Removed(len(sizes), sum(sizes))

    def named_logs(self, without: Container[str] = ()) -> set[str]:
        with self._journal._lock:
            runs = self._journal._runs.items()
            entries = [
                entry for run_id, run in runs if run_id not in without for entry in run.entries
            ]
            return {name for entry in entries for name in logs_in(entry.body)}


def _record(run_id: str, run: _StoredRun) -> RunRecord:
    metadata = msgspec.json.decode(run.metadata)
    return RunRecord(
        run_id=run_id,
        creation=msgspec.structs.replace(run.creation, metadata=metadata),
        summary=copy.copy(run.summary),
        epoch=run.epoch,
        engine=run.engine,
        last_seq=len(run.entries),
    )


def _graphs_of(run: _StoredRun) -> set[str]:
    return {
        msgspec.json.decode(entry.body, type=_GraphName).graph
        for entry in run.entries
        if entry.kind in _NAMES_GRAPH
    }
