"""Starts a controller on demand: a process of its own, which owes nothing to the one that asked.

It has a session of its own, no terminal, no open files, and no trace of a step's process, should a
step have asked for it.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from weftline.control import READY_FD, log_path
from weftline.errors import ControllerUnavailable
from weftline.folders import make_private
from weftline.wire import MARKER

READY_WITHIN_S = 30.0
_TRIES = 3  # something may have killed it while it was starting

# The first process ends at once, so that the controller is nobody's child. Paths are added behind
# the others: the controller has no business with what a user's folder holds.
_BOOT = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "for each in map(int, os.listdir('/proc/self/fd')):\n"
    "    try: os.close(each) if each > int(sys.argv[2]) else None\n"
    "    except OSError: pass\n"
    "os.umask(0o077)\n"
    "os.chdir(sys.argv[1])\n"
    "sys.path += [each for each in sys.argv[3:] if each not in sys.path]\n"
    "from weftline.controller.demand import main\n"
    "main()\n"
)
_LOWEST_SOURCE_FD = 10  # above all that the new process finds its things at
_OF_A_STEP = (MARKER, "CUDA_VISIBLE_DEVICES")
_DEFAULT_SIGNALS = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


def start_controller(home: Path, variables: Mapping[str, str]) -> None:
    """Start one, and wait until it is ready, or another one has come first.

    `variables` say which home it is, and what it was told.
    Raises: ControllerUnavailable when it ends before that, also when tried again.
    """
    for _ in range(_TRIES):
        is_told, answer = _start(home, variables)
        if answer:
            return
        if not is_told:
            break
    why = "ended at once" if is_told else f"was not ready after {READY_WITHIN_S:g} s"
    raise ControllerUnavailable(
        f"the controller of {home} {why}: see {log_path(home)}{_last_line(home)}"
    )


def _start(home: Path, variables: Mapping[str, str]) -> tuple[bool, bytes]:
    """Whether anything became of it in time, and what it said; nothing when it has ended."""
    ours, theirs = os.pipe()
    try:
        pid = _spawn(home, variables, theirs)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        told = select.poll()
        told.register(ours, select.POLLIN)
        is_told = bool(told.poll(READY_WITHIN_S * 1000))
        return is_told, os.read(ours, 64) if is_told else b""
    finally:
        os.close(ours)
        with contextlib.suppress(ChildProcessError):  # a program may collect its children itself
            os.waitpid(pid, 0)


def _spawn(home: Path, variables: Mapping[str, str], ready: int) -> int:
    log = log_path(home)
    source = -1
    try:
        make_private(log.parent)
        source = fcntl.fcntl(ready, fcntl.F_DUPFD_CLOEXEC, _LOWEST_SOURCE_FD)
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-c", _BOOT, str(home), str(READY_FD), *_paths()],
            _environment(variables),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, source, READY_FD),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    except OSError as error:
        raise ControllerUnavailable(
            f"no controller of {home} can be started with {sys.executable}: {error}"
        ) from error
    finally:
        if source >= 0:
            os.close(source)


def _paths() -> list[str]:
    """Where Weftline and what it needs are found, if the interpreter does not know by itself."""
    ours = Path(__file__).absolute().parents[2]
    theirs = Path(msgspec.__file__).absolute().parents[1]
    return [str(ours), str(theirs)]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    environment = dict(os.environ)
    if MARKER in environment:
        for name in _OF_A_STEP:
            environment.pop(name, None)
    return environment | dict(variables)


def _last_line(home: Path) -> str:
    try:
        lines = log_path(home).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return f" (it ends with: {lines[-1].strip()})" if lines else ""
