"""Who is alive in a home: its controller, engines and their children, by the locks they hold.

Nothing is taken, written or removed here; a lock that nobody holds was left by a dead process.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from weftline.adapters.journal.locks import holder
from weftline.filelocks import holder_of
from weftline.wire import MARKER

_CHILD = re.compile(r"(?P<engine>.+)\.child-(?P<number>\d+)")


class Child(NamedTuple):
    """A child of an engine, or what it left behind (`pid` None)."""

    engine: str
    number: int
    pid: int | None
    lock: Path

    @property
    def worker(self) -> str:
        """What events call it."""
        return f"{self.engine}.{self.number}"


class EngineProcess(NamedTuple):
    """An engine, or what it left behind (`pid` None). `lock` need not be there."""

    engine: str
    pid: int | None
    lock: Path
    children: list[Child]


class Controller(Struct, frozen=True):
    """What the controller of the home tells of itself. `started_at` in seconds since 1970."""

    pid: int = 0
    version: str = ""
    started_at: float | None = None
    engine: str = ""


def engines_in(home: Path) -> list[EngineProcess]:
    """Every engine that lives in the home or has left a lock there, and its children."""
    folder = home / "engines"
    engines: dict[str, tuple[Path, list[Child]]] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    for name in names:
        path = folder / name
        if found := _CHILD.fullmatch(name):
            engine = found["engine"]
            child = Child(engine, int(found["number"]), holder(path), path)
            engines.setdefault(engine, (folder / f"{engine}.lock", []))[1].append(child)
        elif name.endswith(".lock") and not name.startswith("."):
            engines.setdefault(name.removesuffix(".lock"), (path, []))
    return [
        EngineProcess(engine, holder(lock), lock, sorted(children, key=lambda child: child.number))
        for engine, (lock, children) in engines.items()
    ]


def controller_of(home: Path) -> Controller | None:
    """The controller that lives in this home."""
    pid = holder_of(home / "controller.lock")
    if pid is None:
        return None
    try:
        told = msgspec.json.decode((home / "controller.json").read_bytes(), type=Controller)
    except (OSError, msgspec.DecodeError):  # it has just begun, or the file is damaged
        told = Controller()
    # The kernel knows better which process it is, unless that is in another container.
    return msgspec.structs.replace(told, pid=pid if pid > 0 else told.pid)


def resident_bytes(pid: int | None) -> int | None:
    """The memory of the process that is in use; None when it cannot be seen."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def living(engines: Iterable[EngineProcess]) -> list[EngineProcess]:
    """Those that are alive, with their living children."""
    return [
        each._replace(children=[child for child in each.children if child.pid is not None])
        for each in engines
        if each.pid is not None
    ]


def strays_of(home: Path, engines: Iterable[EngineProcess]) -> list[int]:
    """Living processes that children of dead engines of this home started, or are themselves."""
    alive = {each.engine for each in engines if each.pid is not None}
    found = []
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                variables = file.read()
        except OSError:  # it has ended, or is another user's
            continue
        if MARKER.encode() not in variables:
            continue
        known = dict(each.partition(b"=")[::2] for each in variables.split(b"\0"))
        engine = os.fsdecode(known.get(MARKER.encode(), b"")).partition("/")[0]
        is_here = os.fsdecode(known.get(b"WEFTLINE_HOME", b"")) == str(home)
        if engine and engine not in alive and is_here:
            found.append(int(entry.name))
    return sorted(found)
