"""Tells how runs end, whoever drives them."""

from functools import partial
from queue import Empty, SimpleQueue

from weftline.driving.controllers import FindController, Listener
from weftline.driving.engines import Engines
from weftline.driving.owners import Owners
from weftline.engine.active import Ended, Gone
from weftline.engine.lookout import Lookout, find_end
from weftline.engine.recovery import RunReader
from weftline.errors import ControllerUnavailable
from weftline.ports.journal import RunRecord, WholeJournal


class Ends:
    """Tells how runs and steps end: the controller tells of those that it drives, the journal of
    all others."""

    def __init__(
        self,
        journal: WholeJournal,
        engines: Engines,
        owners: Owners,
        find_controller: FindController,
    ) -> None:
        self._journal, self._engines, self._owners = journal, engines, owners
        self._find_controller = find_controller
        self._lookout = Lookout(journal, owners.status_of)

    def find(self, run_id: str, name: str | None) -> Ended | None:
        """How the run, or its step `name`, has ended; None as long as it has not.

        Raises: WorkflowNotFoundError.
        """
        reader = RunReader(self._journal, run_id, seeks=name)
        reader.refresh()
        return find_end(reader)

    def watch(self, run_id: str, name: str | None, listener: Listener) -> None:
        """Tell the listener once how the run, or its step `name`, ends; at once, if it has.

        `Gone` when nobody drives the run. The listener is called on another thread, which it must
        not hold up.
        """
        record = self._journal.find_run(run_id)
        controller = self._find_controller() if self._is_elsewhere(record) else None
        if controller is None:
            self._lookout.watch(run_id, name, listener)
        else:
            controller.watch(run_id, name, self.or_else(run_id, name, listener))

    def expect(self, record: RunRecord, call: str, listener: Listener) -> None:
        """Tell the listener once how a call of an actor ends that is made after this."""
        tell = self.or_else(record.run_id, call, listener)
        controller = self._find_controller()
        if controller is None or self._engines.is_shared(record.engine):
            engine = self._engines.open().engine
            engine.watch(record.run_id, call, tell, is_expected=True)
        else:
            controller.watch(record.run_id, call, tell, is_expected=True)

    def or_else(self, run_id: str, name: str | None, listener: Listener) -> partial[None]:
        """The same listener, for one who may not tell after all: then the journal does."""
        return partial(self._tell, run_id, name, listener)

    def _tell(self, run_id: str, name: str | None, listener: Listener, news: Ended | Gone) -> None:
        if isinstance(news, Gone):
            self._lookout.watch(run_id, name, listener)
        else:
            listener(news)

    def hear(self, record: RunRecord, name: str | None, timeout_s: float | None) -> Ended | None:
        """Wait for the end as the controller tells it; None when it is not one to tell.

        Raises: TimeoutError (without words), ControllerUnavailable.
        """
        controller = self._find_controller() if self._is_elsewhere(record) else None
        if controller is None:
            return None
        mailbox: SimpleQueue[Ended | Gone] = SimpleQueue()
        controller.watch(record.run_id, name, mailbox.put)
        try:
            news = mailbox.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError from None
        if isinstance(news, Ended):
            return news
        if isinstance(news.error, ControllerUnavailable):
            raise news.error
        return None

    def _is_elsewhere(self, record: RunRecord | None) -> bool:
        return record is not None and self._owners.is_elsewhere(record)

    def close(self) -> None:
        """Tell nobody any more."""
        self._lookout.close()
