"""Workflows beside other ways to run code: started from inside a step or a thread, and steps that
use threads themselves."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from weftline import workflow


@workflow.step
def square(x: int) -> int:
    return x * x


@workflow.step
def add_up(values: list[int]) -> int:
    return sum(values)


# 1. A workflow is started from anywhere, for instance from the threads that answer requests. It is
# no different from one started by the main program.
def answer_request(number: int) -> int:
    result: int = add_up.step([square.step(x) for x in range(number)]).run()
    return result


with ThreadPoolExecutor(3) as threads:
    answers = list(threads.map(answer_request, [2, 3, 4]))
print(answers)
assert answers == [1, 5, 14]


# Also from inside a step. It is a run of its own, under an id of its own.
@workflow.step
def launch(workflow_id: str) -> int:
    result: int = add_up.step([square.step(3), square.step(4)]).run(workflow_id=workflow_id)
    return result


inner_id = f"inner-{uuid.uuid4().hex}"
launched = launch.step(inner_id).run()
print(launched)
assert launched == 25
assert workflow.get_output(inner_id).result() == 25


# 2. A step may use threads, processes or a training library in its body. None of that is recorded:
# when the step is cut off, all of it is done again.
@workflow.step
def parallel_body(numbers: list[int]) -> int:
    with ThreadPoolExecutor(2) as threads:
        return sum(threads.map(lambda x: x * x, numbers))


inside = parallel_body.step([1, 2, 3]).run()
print(inside)
assert inside == 14
