"""A step takes values, and outputs of other steps, as it takes any argument."""

from weftline import workflow


@workflow.step
def add(left: int, right: int) -> int:
    return left + right


@workflow.step
def get_val() -> int:
    return 10


# `get_val.step()` is a composition; inside `add`, `left` is the 10 that came of it.
ret = add.step(get_val.step(), 20)
result = ret.run()
print(result)
assert result == 30

# One composition used twice is one step, executed once.
val = get_val.step()
twice = add.step(val, val).run()
print(twice)
assert twice == 20
