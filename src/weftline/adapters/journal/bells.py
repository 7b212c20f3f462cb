"""How processes of one home wake each other's engines: a socket beside the lock of each engine.

A ring says only that there is something to read; one that is lost costs time, never news.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from weftline.filelocks import ShortName

_RINGS = b"." * 64


class Bell:
    """Calls `on_news`, on a thread of its own, soon after `ring` was called for this engine."""

    def __init__(self, folder: Path, engine: str, on_news: Callable[[], None]) -> None:
        self._folder, self._name, self._on_news = folder, f"{engine}.bell", on_news
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with ShortName(folder) as short:
                with suppress(FileNotFoundError):
                    os.unlink(folder / self._name)
                self._socket.bind(f"{short}/{self._name}")
            os.chmod(folder / self._name, 0o600)
        except BaseException:
            self._socket.close()
            raise
        threading.Thread(target=self._main, name="weftline-bell", daemon=True).start()

    def close(self) -> None:
        """Hear nothing more. A forked child leaves its parent's bell alone."""
        if self._pid == os.getpid():
            with suppress(OSError):
                os.unlink(self._folder / self._name)
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _main(self) -> None:
        with self._socket, suppress(OSError):
            while self._socket.recv(len(_RINGS)):
                self._on_news()


def ring(folder: Path, engine: str) -> None:
    """Wake the engine, if it lives. Never waits: one with many rings before it will look."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, suppress(OSError):
        out.setblocking(False)
        with ShortName(folder) as short:
            out.sendto(b".", f"{short}/{engine}.bell")
