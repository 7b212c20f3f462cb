"""The main of a controller that a driver has started because it needed one."""

import contextlib
import logging
import os
import sys
from pathlib import Path

from weftline.app import App
from weftline.config import load_settings
from weftline.control import READY_FD, log_path
from weftline.controller.controller import serve_here
from weftline.errors import ControllerRunning, WeftlineError

MAX_LOG_BYTES = 10 << 20
FORMAT = "%(asctime)s %(levelname)s %(message)s"

log = logging.getLogger("weftline.controller")


def main() -> None:
    """Serve the home that the environment names, until there was nothing to do for a while."""
    logging.basicConfig(format=FORMAT, level=logging.INFO)
    status = 1
    try:
        app = App(load_settings({"executor": "children"}))
        assert app.settings.home is not None
        logging.getLogger().handlers[:] = [BoundedLog(log_path(app.settings.home))]
        serve_here(app, app.settings.controller_idle_s, lambda: _tell(b"ready"))
        status = 0
    except ControllerRunning as error:
        log.info("%s: this one, process %d, is not needed", error, os.getpid())
        _tell(b"taken")
        status = 0
    except WeftlineError as error:
        log.error("%s", error)
    except BaseException:
        log.exception("the controller failed")
    sys.exit(status)


def _tell(word: bytes) -> None:
    """Tell whoever started us; it may have lost its patience."""
    with contextlib.suppress(OSError):
        os.write(READY_FD, word)
    with contextlib.suppress(OSError):
        os.close(READY_FD)


class BoundedLog(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr, which is a file, and begins a new one before that grows too long; the one
    before it is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter(FORMAT))
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > MAX_LOG_BYTES:
                self._begin_anew()

    def _begin_anew(self) -> None:
        os.replace(self._path, self._path.with_suffix(".log.1"))
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for target in (1, 2):
            os.dup2(file, target)
        os.close(file)
