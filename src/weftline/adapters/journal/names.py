"""What stored texts name, read without folding a run: objects, and files with output."""

import re

import msgspec

from weftline.core.events import RunStatus
from weftline.ports.journal import InboxKind

ENDED = frozenset({RunStatus.SUCCESSFUL, RunStatus.FAILED, RunStatus.CANCELED})
"""What a run is that has ended; an actor may be it and go on."""

NAMES_OBJECTS = frozenset({InboxKind.SIGNAL, InboxKind.CALL})
"""News that may name objects."""

LOG_MARK = b'"log":["'
"""Stands in every event that names a file with output, right before the name."""

_LOG = re.compile(LOG_MARK.replace(b"[", rb"\[") + rb'([^"\\]+)"')


class _Objects(msgspec.Struct):
    objects: tuple[str, ...] = ()


class _Beginning(msgspec.Struct):
    is_actor: bool = False


_objects = msgspec.json.Decoder(_Objects).decode
_beginning = msgspec.json.Decoder(_Beginning).decode


def objects_in(news: bytes) -> tuple[str, ...]:
    """The objects that an entry of the inbox names; none when it cannot be read."""
    try:
        return _objects(news).objects
    except msgspec.DecodeError:
        return ()


def begins_actor(event: bytes | None) -> bool:
    """Whether the run whose first event this is is a virtual actor."""
    return event is not None and _beginning(event).is_actor


def logs_in(event: bytes) -> list[str]:
    """The files with output that the event names; a value in it may look like one."""
    return [name.decode() for name in _LOG.findall(event)]
