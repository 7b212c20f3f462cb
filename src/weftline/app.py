"""Joins everything: one home, opened by this process, with its journal, objects and engine."""

import atexit
import contextlib
import os
import threading
from typing import Any

from weftline.adapters.journal.memory import MemoryJournal
from weftline.adapters.journal.sqlite import SqliteJournal
from weftline.adapters.objects.local import LocalObjectStore
from weftline.adapters.objects.memory import MemoryObjectStore
from weftline.adapters.objects.sharing import note_home
from weftline.config import Settings, load_settings
from weftline.control import Declared
from weftline.driving.attached import Attached
from weftline.driving.detached import Detached
from weftline.driving.ends import Ends
from weftline.driving.engines import Engines
from weftline.driving.executors import Executors
from weftline.driving.limits import Limits
from weftline.driving.owners import Owners
from weftline.driving.records import Records
from weftline.driving.results import Results
from weftline.driving.steering import Steering
from weftline.driving.variables import declared_by, variables_of_controller
from weftline.link.link import Link
from weftline.ports.objects import ObjectStore
from weftline.wire import MARKER


class App:
    """Everything this process needs to run workflows in one home, each part made of those before
    it; none knows of this."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.journal: SqliteJournal | MemoryJournal
        self.objects: ObjectStore
        if settings.home is None or settings.objects is None:
            self.journal, self.objects = MemoryJournal(), MemoryObjectStore()
        else:
            self.journal = SqliteJournal(settings.home)
            self.objects = LocalObjectStore(settings.objects)
            with contextlib.suppress(OSError):  # one that cannot be written to holds nothing of us
                note_home(settings.objects, settings.home)
        # What a step runs is no business of limits: it would wait for the run it is part of.
        self._is_step = MARKER in os.environ
        limits = (
            Limits(settings.home, None, None)
            if self._is_step
            else Limits(
                settings.home, settings.max_running_workflows, settings.max_pending_workflows
            )
        )

        def find_controller() -> Link | None:
            return self.link

        self.executors = Executors(settings, self.objects)
        self.engines = Engines(settings, self.journal, self.executors, limits)
        self.owners = Owners(settings.home, self.journal, self.engines)
        self.records = Records(self.journal, self.objects, self.engines, self.owners)
        self.ends = Ends(self.journal, self.engines, self.owners, find_controller)
        self.results = Results(self.journal, self.objects, self.owners, self.records, self.ends)
        self.attached = Attached(self.journal, self.engines, self.owners, self.records)
        self.detached = Detached(
            self.journal, self.engines, self.owners, self.records, self.ends, find_controller
        )
        self.steering = Steering(self.journal, self.records, self.ends, self.detached)
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it; a forked one opens its own."""
        return self._pid == os.getpid()

    @property
    def link(self) -> Link | None:
        """To the controller of the home; None for one in memory, which has none."""
        home = self.settings.home
        if home is None or self._link is not None:
            return self._link
        with self._lock:
            if self._link is None:
                self._link = Link(
                    home,
                    self.journal,
                    declared=Declared() if self._is_step else declared_by(self.settings),
                    variables=variables_of_controller(self.settings),
                )
            return self._link

    def close(self) -> None:
        """Let every run go and end all children; the App is not used afterwards."""
        if not self.is_ours:
            return
        if self._link is not None:
            self._link.close()
        self.ends.close()
        self.engines.close()
        self.journal.close()


# -- this process's home ------------------------------------------------------------------------

_lock = threading.Lock()
_app: App | None = None
_PLACES = ("storage", "database")


def open_home(**given: Any) -> bool:
    """Choose this process's home and settings (as `config.load_settings` takes them); whether it
    was not chosen before.

    Raises: InvalidSettings; RuntimeError when something else was chosen before.
    """
    global _app
    settings = load_settings(given)
    with _lock:
        if _app is None or not _app.is_ours:
            _app = App(settings)
            return True
        now = _app.settings
    if (settings.home, settings.objects) != (now.home, now.objects):
        raise RuntimeError(
            f"workflows of this process are kept in {now.home or 'memory'} already; another home"
            f" ({settings.home or 'memory'}) needs another process"
        )
    changed = [
        name
        for name, value in given.items()
        if value is not None
        and name not in _PLACES
        and getattr(settings, name) != getattr(now, name)
    ]
    if changed:
        raise RuntimeError(
            f"workflow.init() was called before, and {', '.join(changed)} cannot change afterwards"
        )
    return False


def home() -> App:
    """This process's home; the first call opens the default one."""
    global _app
    app = _app
    if app is None or not app.is_ours:
        with _lock:
            if _app is None or not _app.is_ours:
                _app = App(load_settings({}))
            app = _app
    return app


@atexit.register
def close_home() -> None:
    """Let go of the home: runs that are still open are RESUMABLE, children end."""
    global _app
    with _lock:
        app, _app = _app, None
    if app is not None:
        app.close()
