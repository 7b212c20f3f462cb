"""Tidying up beside drivers and engines that do what they do at the worst moment, from a seed.

The tidying is the real one, as are journals and stores. Between any two of its steps others store
objects, name them in runs and in news, read, end and delete runs, or tidy up, too. Days pass. An
object that a run needs is always there, and in the end nothing else is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.stores import DAY, age, upkeep_of
from weftline.adapters.journal.memory import MemoryJournal, MemoryJournalUpkeep
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.journal.upkeep import SqliteUpkeep
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.core.environment import Environment
from weftline.core.events import RunStatus, RunSubmitted, encode_event
from weftline.ports.journal import Batch, Creation, Entry, InboxKind, RunChange, Signal, Summary
from weftline.ports.objects import ObjectUpkeep, StoredFile
from weftline.ports.upkeep import JournalUpkeep
from weftline.upkeep.tidying import ENDED, HOUR, Tidying

CONTENTS = [b"content %d" % number for number in range(12)]
NAMES = [sha256(content).hexdigest() for content in CONTENTS]

AT_HAND_S = 2 * DAY - 2 * HOUR
"""So long after it was stored an object may be named: one day it is left alone, one it is in the
trash."""

HERE = Environment(python="/python", sys_path=(), cwd="/")


@dataclass
class Owned:
    """A run as its owner knows it."""

    epoch: int = 1
    objects: set[str] = field(default_factory=set)
    news: set[str] = field(default_factory=set)
    status: RunStatus = RunStatus.RUNNING


class World:
    """Everybody but the one who tidies up."""

    def __init__(self, seed: int, folder: Path | None) -> None:
        self.random = Random(seed)
        self.objects: MemoryObjectStore | LocalObjectStore
        self.journal: MemoryJournal | SqliteJournal
        self.journal_upkeep: JournalUpkeep
        if folder is None:
            self.objects, self.journal = MemoryObjectStore(), MemoryJournal()
            self.journal_upkeep = MemoryJournalUpkeep(self.journal)
        else:
            self.objects = LocalObjectStore(folder / "objects")
            self.journal = SqliteJournal(folder)
            self.journal_upkeep = SqliteUpkeep(folder)
        self.runs: dict[str, Owned] = {}
        self.at_hand: dict[tuple[str, bool], float] = {}  # name, durable -> stored when
        self.now = 0.0
        self.submitted = 0
        self.is_tidying = False
        self.seen: set[str] = set()
        self.upkeep = upkeep_of(self.objects)

    def close(self) -> None:
        self.journal.close()
        if isinstance(self.journal_upkeep, SqliteUpkeep):
            self.journal_upkeep.close()

    # -- what happens -----------------------------------------------------------------------

    def meddle(self, *, may_commit: bool = True) -> None:
        """A few things happen, or none."""
        ways: list[Callable[[], None]] = [self._put, self._read, self._look]
        if may_commit:
            ways += [self._submit, self._extend, self._post, self._take, self._end]
            ways += [self._delete, self._resume, self._tidy_too]
        for _ in range(self.random.choice([0, 0, 1, 2, 3])):
            self.random.choice(ways)()
            self.check()

    def pass_time(self) -> None:
        seconds = self.random.choice([HOUR, 5 * HOUR, 13 * HOUR, DAY, DAY + HOUR])
        self.now += seconds
        for name in NAMES:
            age(self.objects, name, seconds)
        self.at_hand = {each: at for each, at in self.at_hand.items() if self.now - at < AT_HAND_S}

    def _put(self) -> None:
        durable = self.random.random() < 0.7
        name = self.objects.put(self.random.choice(CONTENTS), durable=durable)
        self.at_hand[name, durable] = self.now
        if durable:
            self.at_hand[name, False] = self.now

    def _some(self) -> list[str]:
        """Objects that somebody has at hand and may name."""
        names = sorted({name for name, _ in self.at_hand})
        return self.random.sample(names, min(len(names), self.random.randint(1, 3)))

    def _read(self) -> None:
        held = sorted(self.needed_names())
        if held:
            name = self.random.choice(held)
            assert bytes(self.objects.read(name)) == CONTENTS[NAMES.index(name)]

    def _look(self) -> None:
        # It may come back from the trash; as for what is in its place, a look promises nothing.
        self.objects.exists(self.random.choice(NAMES))

    def _commit(self, run_id: str, change: RunChange, names: Sequence[str] = ()) -> None:
        batch = Batch(changes=[change], objects=[(run_id, name) for name in names])
        assert self.journal.commit(batch) == set()
        self.runs.setdefault(run_id, Owned()).objects.update(names)

    def _change(self, run_id: str, names: Sequence[str] = (), **told: object) -> None:
        run = self.runs[run_id]
        ended_at = 1.0 if run.status in ENDED else None
        summary = Summary(status=run.status, steps=1, succeeded=0, ended_at=ended_at)
        change = RunChange(run_id=run_id, epoch=run.epoch, entries=[], summary=summary)
        for name, value in told.items():
            setattr(change, name, value)
        self._commit(run_id, change, names)

    def _submit(self) -> None:
        self.submitted += 1
        run_id = f"r{self.submitted}"
        first = Entry(1, 1.0, "RunSubmitted", encode_event(RunSubmitted(graph="g", output=0)))
        change = RunChange(
            run_id=run_id,
            epoch=0,
            entries=[first],
            summary=Summary(status=RunStatus.RUNNING, steps=1, succeeded=0),
            creation=Creation(workflow="w", created_at=1.0, environment=HERE, metadata={}),
        )
        self._commit(run_id, change, self._some())

    def _any_run(self, *, is_open: bool | None = None) -> str | None:
        fitting = [
            run_id
            for run_id, run in self.runs.items()
            if is_open is None or (run.status not in ENDED) is is_open
        ]
        return self.random.choice(fitting) if fitting else None

    def _extend(self) -> None:
        if run_id := self._any_run(is_open=True):
            self._change(run_id, self._some())

    def _post(self) -> None:
        if run_id := self._any_run():
            names = self._some()
            body = msgspec.json.encode(Signal("s", msgspec.Raw(b"null"), tuple(names)))
            assert self.journal.post(run_id, InboxKind.SIGNAL, body) is not None
            self.runs[run_id].news.update(names)

    def _take(self) -> None:
        if run_id := self._any_run(is_open=True):
            run = self.runs[run_id]
            taken = [entry.number for entry in self.journal.list_inbox(run_id)]
            names, run.news = sorted(run.news), set()
            self._change(run_id, names, taken=taken)

    def _end(self) -> None:
        if run_id := self._any_run(is_open=True):
            self.runs[run_id].status = self.random.choice(ENDED)
            self._change(run_id)

    def _resume(self) -> None:
        run_id = self._any_run(is_open=False)
        # What was volatile of it is made anew, or not needed.
        if run_id and all(self._is_durable(name) for name in self.runs[run_id].objects):
            run = self.runs[run_id]
            run.status = RunStatus.RUNNING
            self._change(run_id, takes=True, engine="e")
            run.epoch += 1

    def _is_durable(self, name: str) -> bool:
        files = [*self.upkeep.objects(), *self.upkeep.trashed()]
        return any(each.name == name and not each.is_volatile for each in files)

    def _delete(self) -> None:
        run_id = self._any_run()
        if run_id and self.random.random() < 0.5:
            assert self.journal.delete_run(run_id, self.runs.pop(run_id).epoch)

    def _tidy_too(self) -> None:
        if not self.is_tidying:
            return
        self.is_tidying = False  # and nobody meddles with this one
        Tidying(self.journal_upkeep, self.upkeep).tidy(is_trial=self.random.random() < 0.2)
        self.is_tidying = True

    # -- what must hold ---------------------------------------------------------------------

    def needed(self) -> tuple[set[str], set[str]]:
        """What any run needs, and what those need that have not ended."""
        by_any, by_unfinished = set[str](), set[str]()
        for run in self.runs.values():
            by_any |= run.objects | run.news
            by_unfinished |= run.news
            if run.status not in ENDED:
                by_unfinished |= run.objects
        return by_any, by_unfinished

    def needed_names(self) -> set[str]:
        """What must be there, whatever happens: an ended run needs nothing that is volatile."""
        by_any, by_unfinished = self.needed()
        return by_unfinished | {name for name in by_any if self._is_durable(name)}

    def check(self) -> None:
        files = [*self.upkeep.objects(), *self.upkeep.trashed()]
        missing = self.needed()[1].difference(each.name for each in files)
        assert not missing
        # What is durable stays so for as long as any run needs it.
        durable = {each.name for each in files if not each.is_volatile}
        by_any = self.needed()[0]
        self.seen &= by_any
        assert self.seen <= durable
        self.seen |= by_any & durable


class Meddled:
    """The ports of the one who tidies up; between any two calls the others do something."""

    def __init__(self, world: World) -> None:
        self._world = world

    def objects(self) -> Iterator[StoredFile]:
        for found in self._world.upkeep.objects():
            self._world.meddle()
            yield found

    def trashed(self) -> Iterator[StoredFile]:
        for found in self._world.upkeep.trashed():
            self._world.meddle()
            yield found

    @contextmanager
    def unheld(self, files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
        self._world.meddle()
        with self._world.journal_upkeep.unheld(files) as found:
            self._world.meddle(may_commit=False)
            yield found
            self._world.meddle(may_commit=False)
        self._world.meddle()

    def trash(self, found: StoredFile) -> bool:
        self._world.meddle(may_commit=False)
        return self._world.upkeep.trash(found)

    def erase(self, found: StoredFile) -> bool:
        self._world.meddle(may_commit=False)
        return self._world.upkeep.erase(found)

    def restore(self, name: str) -> bool:
        self._world.meddle()
        return self._world.upkeep.restore(name)

    def __getattr__(self, name: str) -> object:
        self._world.meddle()
        found: object = getattr(
            self._world.journal_upkeep, name, getattr(self._world.upkeep, name, None)
        )
        return found


def live(world: World, rounds: int) -> None:
    """Troubles for a while, then peace: what is needed is there, and nothing else."""
    meddled: object = Meddled(world)
    assert isinstance(meddled, Meddled)
    journal: JournalUpkeep = meddled  # type: ignore[assignment]
    objects: ObjectUpkeep = meddled  # type: ignore[assignment]
    for _ in range(rounds):
        world.meddle()
        world.is_tidying = True
        Tidying(journal, objects).tidy()
        world.is_tidying = False
        world.check()
        world.pass_time()
    by_any, by_unfinished = world.needed()
    durable = {name for name in by_any if world._is_durable(name)}
    for _ in range(3):
        for name in NAMES:
            age(world.objects, name, DAY + HOUR)
        Tidying(world.journal_upkeep, world.upkeep).tidy()
    left = list(world.upkeep.objects())
    assert {each.name for each in left if not each.is_volatile} == durable
    assert {each.name for each in left if each.is_volatile} <= by_unfinished
    assert by_unfinished <= {each.name for each in left}
    assert list(world.upkeep.trashed()) == []
    for each in left:
        assert bytes(world.objects.read(each.name)) == CONTENTS[NAMES.index(each.name)]


@pytest.mark.parametrize("seed", range(60))
def test_nothing_that_is_needed_is_ever_lost(seed: int) -> None:
    world = World(seed, None)
    live(world, 25)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_is_needed_is_ever_lost_on_the_disk(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path)
    try:
        live(world, 12)
    finally:
        world.close()
