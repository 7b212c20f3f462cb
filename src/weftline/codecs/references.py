"""References: what stands for a value that lies in the store, or for a step that a run has."""

from typing import Any

from weftline.codecs.rebuild import ObjectRef, StepRef
from weftline.codecs.values import encode_object
from weftline.ports.objects import ObjectStore

__all__ = ["ObjectRef", "StepRef", "put"]


def put(value: Any, objects: ObjectStore) -> ObjectRef:
    """A reference to `value`, which is an object in the store from now on, however small it is.

    Equal content is stored once.
    Raises: TypeError for a reference; NotPicklable, also for a composition; StorageFull.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(f"{value!r} is a reference already; a reference to one cannot be made")
    return ObjectRef(*encode_object(value, objects, "value"))
