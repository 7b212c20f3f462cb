"""The children of one engine: started as they are needed, kept warm, few when they are idle."""

import contextlib
import math
import os
import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from weftline.core.environment import Environment
from weftline.core.policy import Placement
from weftline.folders import make_private
from weftline.ports.executor import Attempt
from weftline.wire import MARKER, Hello, frame
from weftline.workers.launch import Process
from weftline.workers.logs import LogFolder, Logs
from weftline.workers.slots import Ask, Grant

MAX_CHILDREN = 64
SURPLUS_AFTER_S = 10.0
"""After so long an idle child ends when there are more than a few."""

_CLOSE_WITHIN_S = 1.0

Sort = tuple[Environment, tuple[tuple[str, str], ...], tuple[str, ...]]
"""What is settled when a child starts: its environment, variables, ids of GPUs."""


class Group:
    """Attempts that the same children can carry out one after the other."""

    def __init__(self, environment: Environment, placement: Placement, ask: Ask) -> None:
        self.environment, self.variables, self.ask = environment, placement.env_vars, ask
        self.memory = placement.memory
        self.busy: list[Child] = []


class Child:
    """A child, and what it has to do."""

    listens = False

    def __init__(self, process: Process, name: str, sort: Sort, lock_path: Path) -> None:
        self.process, self.name, self.sort, self.lock_path = process, name, sort, lock_path
        self.since = time.monotonic()
        """When it was started, fell idle, or was told to end, whichever was last."""
        self.group: Group | None = None
        self.grant: Grant | None = None
        """What it occupies while it has attempts; None: it is idle, or ends."""
        self.outstanding: dict[int, Attempt] = {}
        self.is_ready = False
        self.has_spoken = False
        """Whether it ever told what became of an attempt."""
        self.is_watched = False
        """Whether it looks after the attempts it has, so that more may be sent behind them."""
        self.is_stuck = False
        """Whether it gave attempts back, and still carries out what they would have waited for."""
        self.is_ending = False
        """Whether it was told to end: nothing that happens to it is anybody's fault."""
        self.hung_up_at = -math.inf
        """When its connection ended. It ends with the process, but that is told a moment later."""
        self.expired: Attempt | None = None
        """The attempt for which it was ended, because that took too long, or too much memory."""
        self.limits: dict[int, int] = {}
        """How much memory attempts may have resident, by key, where there is a limit."""
        self.resident = 0
        """How much there was when it was ended, if that was too much and not the time."""
        self.kept: set[int] = set()
        """Attempts that returned a step which is to be carried out in this child."""
        self.reason: str | None = None
        """Why it had to be ended, if not because of what it was told."""
        self.check_at = math.inf
        self.told = 0
        """The key of the attempt last reported as started."""
        self.printed: tuple[int, list[int]] = (0, [0, 0])
        """How far the output of an attempt was passed on: its key, and offsets by stream."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is to be sent behind what it has."""
        return self.is_stuck or bool(self.kept)

    @property
    def environment(self) -> Environment:
        return self.sort[0]

    @property
    def logs(self) -> Logs:
        return self.process.logs


C = TypeVar("C", bound=Child)


class Pool:
    """All children that exist, by what they listen to and by what they are good for."""

    def __init__(
        self,
        home: Path,
        engine: str,
        objects: tuple[str, str],
        variables: Mapping[str, str],
        few: int,
    ) -> None:
        self.children: list[Child] = []
        self.few = few
        """So many may stay when they are idle."""
        self.idle_count = 0
        self.epoll = select.epoll()
        self._by_fd: dict[int, Child] = {}
        self._home, self._engine, self._objects = home, engine, objects
        self._variables = dict(variables)
        self._engines = home / "engines"
        make_private(self._engines)
        self._logs = LogFolder(home / "logs")
        self._idle: dict[Sort, list[Child]] = {}
        self._last_number = 0
        self._besides = 0

    @property
    def _counted(self) -> int:
        return len(self.children) - self._besides

    @property
    def room(self) -> int:
        """How many more children could be busy."""
        return MAX_CHILDREN - self._counted + self.idle_count

    def listening_at(self, fd: int) -> Child | None:
        """The child with this socket or process descriptor."""
        return self._by_fd.get(fd)

    def stop_listening(self, child: Child, fd: int) -> bool:
        """Whether it was listened to so far."""
        if self._by_fd.pop(fd, None) is None:
            return False
        self.epoll.unregister(fd)
        return True

    def send(self, child: Child, content: bytearray) -> None:
        process = child.process
        process.send(content)
        if process.has_unsent and not process.is_ended:
            self.epoll.modify(process.socket, select.EPOLLIN | select.EPOLLOUT)

    # -- idle ones ------------------------------------------------------------------------------

    def find_idle(self, sort: Sort) -> Child | None:
        """The one that was busy last, so that others can become surplus."""
        idle = self._idle.get(sort)
        return idle[-1] if idle else None

    def count_idle(self, sort: Sort) -> int:
        return len(self._idle.get(sort, ()))

    def count_idle_on_gpus(self, sort: Sort) -> int:
        """As `count_idle`, whichever GPUs they have."""
        return sum(
            len(idle) for other, idle in self._idle.items() if other[:2] == sort[:2] and other[2]
        )

    def add_idle(self, child: Child) -> None:
        child.since = time.monotonic()
        self._idle.setdefault(child.sort, []).append(child)
        self.idle_count += 1

    def remove_idle(self, child: Child) -> None:
        """It is idle no more, if it was."""
        idle = self._idle.get(child.sort, [])
        if child in idle:
            idle.remove(child)
            self.idle_count -= 1
            if not idle:
                del self._idle[child.sort]

    # -- starting -------------------------------------------------------------------------------

    def start(self, sort: Sort) -> Child:
        """A new child, in place of idle ones where there are many. Raises: OSError."""
        self._make_place(sort)
        return self._start(sort, Child)

    def start_beside(self, sort: Sort, kind: type[C]) -> C:
        """A new child that is counted with no others. Raises: OSError."""
        return self._start(sort, kind)

    def _start(self, sort: Sort, kind: type[C]) -> C:
        environment, variables, devices = sort
        self._last_number += 1
        number = self._last_number
        name = f"{self._engine}.{number}"
        env = {
            **os.environ,
            **self._variables,
            "WEFTLINE_HOME": str(self._home),
            **dict(variables),
            MARKER: f"{self._engine}/{number}/{self._home}",
        }
        if devices:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        extra = dict(variables).get("PYTHONPATH", "").split(os.pathsep)
        sys_path = [*filter(None, extra), *environment.sys_path]
        logs = self._logs.open(name)
        try:
            process = Process(environment.python, sys_path, env, logs)
        except BaseException:
            logs.close()
            raise
        lock_path = self._engines / f"{self._engine}.child-{number}"
        child = kind(process, name, sort, lock_path)
        self.children.append(child)
        self._besides += child.listens
        for fd in (process.socket.fileno(), process.pidfd):
            if fd >= 0:
                self._by_fd[fd] = child
                self.epoll.register(fd, select.EPOLLIN)
        paths = str(self._home), *self._objects
        hello = Hello(environment.cwd, *paths, name, str(lock_path), child.listens)
        self.send(child, frame(hello))
        return child

    def _make_place(self, sort: Sort) -> None:
        """End idle children of other sorts: too many, or on GPUs that a new one is to have."""
        others = [child for other, idle in self._idle.items() if other != sort for child in idle]
        others.sort(key=lambda child: child.since)
        lasting = sum(not (child.is_ending or child.listens) for child in self.children)
        devices = set(sort[2])
        for child in others:
            if lasting >= self.few or not devices.isdisjoint(child.sort[2]):
                self.retire(child)
                lasting -= 1
        while self._counted >= MAX_CHILDREN:
            useless = (child for child in self.children if child.grant is None)
            self._end_now(next(child for child in useless if not child.listens))

    # -- ending ---------------------------------------------------------------------------------

    def retire(self, child: Child) -> None:
        """Let an idle child end by itself."""
        self.remove_idle(child)
        child.is_ending = True
        child.since = time.monotonic()
        child.process.hang_up()

    def kill(self, child: Child) -> None:
        """End a child at once; what it had to do is taken care of when it is dead."""
        self.remove_idle(child)
        child.is_ending = True
        child.since = time.monotonic()
        child.process.kill()

    def remove(self, child: Child) -> None:
        """Forget a dead child that was reaped, and let go of all that belongs to it."""
        self.remove_idle(child)
        self.children.remove(child)
        self._besides -= child.listens
        child.check_at = math.inf
        for fd in (child.process.socket.fileno(), child.process.pidfd):
            self.stop_listening(child, fd)
        child.process.close()
        with contextlib.suppress(OSError):
            child.lock_path.unlink()

    def close(self) -> None:
        """End all: idle ones may do so by themselves, if they are quick."""
        for child in self.children:
            if child.is_ready and not child.outstanding:
                child.process.hang_up()
            else:
                child.process.kill()
        deadline = time.monotonic() + _CLOSE_WITHIN_S
        for child in self.children[:]:
            child.process.has_died(max(0.0, deadline - time.monotonic()))
            child.process.reap()
            self.remove(child)
        self.epoll.close()

    def _end_now(self, child: Child) -> None:
        child.process.reap()
        self.remove(child)
