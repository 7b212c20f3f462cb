"""Ends what an engine left behind that died: its children, and all that these started.

Children die with their engine by themselves; what a step started may not. Everything is known by
the locks that children hold, and by a variable that they hand down. In a copy of a home, an engine
of the home itself looks dead: what belongs to that one is left alone.
"""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from weftline.filelocks import find_holder
from weftline.wire import MARKER

PATIENCE_S = 5.0
_POLL_S = 0.005


def end_orphans(home: Path, engine: str) -> None:
    """Kill what is left of the children of `engine`, which is dead, and remove their locks.

    When this returns they have ended, and hold nothing; only one that the system cannot end, or
    that is out of reach (in another container), may be left after some seconds.
    """
    locks = sorted((home / "engines").glob(f"{engine}.child-*"))
    deadline = time.monotonic() + PATIENCE_S
    for lock in locks:
        _end_holder(lock, deadline)
    while (left := _marked(home, engine)) and time.monotonic() < deadline:
        _kill(left, deadline)
    for lock in locks:
        lock.unlink(missing_ok=True)


def _end_holder(lock: Path, deadline: float) -> None:
    """Kill the child that holds the lock, with its group, and wait until it is free."""
    while (pid := find_holder(lock)) is not None:
        # The holder leads its group: a child begins a session of its own. In another container
        # it cannot be seen from here, and its id is none.
        if pid > 0 and pid != os.getpid() and _leads_group(pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        if time.monotonic() >= deadline:
            return
        time.sleep(_POLL_S)


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def _marked(home: Path, engine: str) -> list[int]:
    """Living processes that were started by a child of the engine, directly or not."""
    mark = f"\0{MARKER}={engine}/".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                _, is_marked, rest = (b"\0" + file.read()).partition(mark)
                if is_marked and _is_of(home, rest.partition(b"\0")[0]):
                    found.append(int(entry.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def _is_of(home: Path, child: bytes) -> bool:
    """Whether the child, as the rest of its mark tells, is one of this home, which may have been
    moved since."""
    path = os.fsdecode(child.partition(b"/")[2])
    return not os.path.exists(path) or os.path.samefile(path, home)


def _kill(pids: list[int], deadline: float) -> None:
    """Kill them, and wait for their ends: their marks go before what they hold does."""
    processes = []
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended, or the system has no such descriptors
            processes.append(os.pidfd_open(pid))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        end = select.poll()
        end.register(process, select.POLLIN)
        end.poll(max(0.0, deadline - time.monotonic()) * 1000.0)
        os.close(process)
    if not processes:
        time.sleep(_POLL_S)
