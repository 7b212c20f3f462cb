"""Values written as pickles, by a part of `code` that is loaded late: many children never write."""

from collections.abc import Callable
from functools import cache
from typing import Any

from weftline.code.spool import Spool


def write_pickle(value: Any, spool: Spool, label: str) -> tuple[str, tuple[str, ...]]:
    """Write a value as it is, with the code that belongs to it.

    Returns: the codec, and the names of the objects with the definitions of classes.
    Raises: NotPicklable, saying where inside `label` the trouble lies.
    """
    return _dump_value()(value, spool, label)


@cache
def _dump_value() -> Callable[[Any, Spool, str], tuple[str, tuple[str, ...]]]:
    from weftline.code.dumps import dump_value

    return dump_value
