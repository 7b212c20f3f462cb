"""A first workflow of three steps: composed first, executed by `.run()`."""

from weftline import workflow


@workflow.step
def read_data(num: int) -> list[int]:
    return list(range(num))


@workflow.step
def preprocessing(data: list[int]) -> list[int]:
    return [d**2 for d in data]


@workflow.step
def aggregate(data: list[int]) -> int:
    return sum(data)


# Choose where runs are kept: $WEFTLINE_HOME, else ~/.weftline. May be left out.
workflow.init()

# Set the workflow up. Nothing is executed yet.
data = read_data.step(10)
preprocessed_data = preprocessing.step(data)
output = aggregate.step(preprocessed_data)

# Execute the workflow and print the result.
result = output.run()
print(result)
assert result == 285
