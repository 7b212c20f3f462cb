"""Ray Workflow's behaviour, row by row: arguments are checked when a step is composed.

Named after its row in Ray's own suite (`test_signature_check.py` there).
"""

from functools import partial
from typing import Any

import pytest

from weftline import workflow


@workflow.step
def signed(first: int, second: int = 2, *, third: int = 3) -> tuple[int, int, int]:
    return first, second, third


def test_signature_check() -> None:
    with pytest.raises(TypeError, match=r"cannot be called directly.*\.step\("):
        signed(1)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1, 2, 3), {}),
        ((1,), {"first": 1}),
        ((1,), {"fourth": 4}),
    ]
    for args, kwargs in wrong:
        with pytest.raises(TypeError, match=r"step '.*signed'"):
            signed.step(*args, **kwargs)
    for args, kwargs in [((1,), {}), ((1, 2), {"third": 3}), ((), {"first": 1})]:
        signed.step(*args, **kwargs)

    def add(left: int, right: int) -> int:
        return left + right

    with pytest.raises(TypeError, match="too many positional"):
        workflow.step(partial(add, 1)).step(2, 3)
