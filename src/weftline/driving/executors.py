"""Makes what carries attempts out, as the settings say."""

import os

from weftline.config import Settings
from weftline.driving.variables import variables_of
from weftline.ports.objects import ObjectStore
from weftline.version import __version__
from weftline.workers.children import Children
from weftline.workers.inline import Inline
from weftline.workers.slots import Slots, find_slots
from weftline.workers.threads import Threads


class Executors:
    """Makes executors, which share the slots of this process."""

    def __init__(self, settings: Settings, objects: ObjectStore) -> None:
        self._settings, self._objects = settings, objects
        self.slots: Slots = find_slots(
            settings.num_cpus, settings.num_gpus, settings.resources, os.environ
        )

    def new_inline(self) -> Inline:
        return Inline(objects=self._objects, slots=self.slots, home=self._settings.home)

    def new_for_engine(self, engine_id: str) -> Children | Threads:
        """What carries attempts out for the process's engine."""
        home = self._settings.home
        if self._settings.executor == "threads" or home is None:
            return Threads(objects=self._objects, slots=self.slots, home=home)
        return self.new_children(engine_id)

    def new_children(self, engine_id: str) -> Children:
        home, objects = self._settings.home, self._settings.objects
        assert home is not None
        assert objects is not None
        return Children(
            home=home,
            engine=engine_id,
            objects_factory="weftline.adapters.objects.local:LocalObjectStore",
            objects_root=str(objects),
            slots=self.slots,
            variables=variables_of(self._settings),
            version=__version__,
        )
