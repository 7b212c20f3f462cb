"""Ends what an engine left behind that died: its children, and all that these started.

Children die with their engine by themselves; what a step started may not. Everything is known by
the locks that children hold, and by a variable that they hand down.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from weftline.filelocks import find_holder
from weftline.wire import MARKER

PATIENCE_S = 5.0
_POLL_S = 0.005


def end_orphans(home: Path, engine: str) -> None:
    """Kill what is left of the children of `engine`, which is dead, and remove their locks.

    When this returns, none of them carries out a step any more; only one that the system cannot
    end, or that is out of reach (in another container), may be left after some seconds.
    """
    locks = sorted((home / "engines").glob(f"{engine}.child-*"))
    deadline = time.monotonic() + PATIENCE_S
    for lock in locks:
        _end_holder(lock, deadline)
    while (left := _marked(engine)) and time.monotonic() < deadline:
        for pid in left:
            _kill(pid)
        time.sleep(_POLL_S)
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


def _marked(engine: str) -> list[int]:
    """Living processes that were started by a child of the engine, directly or not."""
    mark = f"\0{MARKER}={engine}/".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as file:
                if mark in b"\0" + file.read():
                    found.append(int(entry.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
