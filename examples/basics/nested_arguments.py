"""Compositions inside lists, dicts, tuples and objects arrive as their values."""

from dataclasses import dataclass
from typing import Any

from weftline import workflow


@workflow.step
def add(values: list[int]) -> int:
    return sum(values)


@workflow.step
def get_val() -> int:
    return 10


# All three have finished when `add` begins.
ret = add.step([get_val.step() for _ in range(3)])
result = ret.run()
print(result)
assert result == 30


@dataclass(frozen=True)
class Basket:
    label: str
    items: Any


@workflow.step
def describe(basket: Basket) -> str:
    return f"{basket.label}: {basket.items}"


text = describe.step(Basket("mixed", {"one": get_val.step(), "two": (get_val.step(), 5)})).run()
print(text)
assert text == "mixed: {'one': 10, 'two': (10, 5)}"
