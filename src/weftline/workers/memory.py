"""How much memory a child and what it started have resident, as the system tells."""

import contextlib
import os
import signal
import time

from weftline.core.policy import Placement

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FORGET_S = 1.0
"""Ids of processes are used again; nothing is believed of one for longer than this."""


class Sessions:
    """The processes of sessions; a child begins one, and what it starts belongs to it.

    Cheap enough to be asked twenty times a second: a process may leave its session but never joins
    another one, so those that were seen outside of it are not looked at again.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._forget_at = 0.0

    def resident(self, session: int) -> dict[int, int]:
        """Bytes that are resident, by process."""
        now = time.monotonic()
        if now >= self._forget_at:
            self._known.clear()
            self._forget_at = now + _FORGET_S
        found: dict[int, int] = {}
        known = self._known
        for name in os.listdir("/proc"):
            if known.get(name, session) == session and name.isdigit():
                belongs_to, size = _read_stat(name)
                known[name] = belongs_to
                if belongs_to == session:
                    found[int(name)] = size
        return found

    def excess(self, session: int, limit: int) -> int:
        """How many bytes are resident, if they are more than `limit`; else 0."""
        sizes = self.resident(session)
        total = sum(sizes.values())
        if total > limit and len(sizes) > 1:
            # What forks share was counted for each of them. To know it better takes a while.
            total = sum(_share_of(pid, size) for pid, size in sizes.items())
        return total if total > limit else 0

    def kill(self, session: int) -> None:
        """End all processes of a session, also those that are in groups of their own."""
        for pid in self.resident(session):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def problem_here(placement: Placement) -> str | None:
    """Why the placement's limit of memory cannot be kept in the engine's own process, or None."""
    if not placement.memory:
        return None
    return (
        f"asks for memory={placement.memory}, a limit that cannot be kept where steps share the"
        " engine's process: leave it out, or run it with executor='children'"
    )


def _read_stat(name: str) -> tuple[int, int]:
    """The session of a process, and how many bytes it has resident; zeros when it has ended."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            content = file.read()
    except OSError:
        return 0, 0
    fields = content[content.rindex(b")") + 2 :].split()
    return int(fields[3]), int(fields[21]) * _PAGE_BYTES


def _share_of(pid: int, size: int) -> int:
    """Bytes resident of a process, those shared with others counted in part; `size` if unknown."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return size
