"""What a step needs of the machine: processors, GPUs, and anything else you name."""

import os
from dataclasses import dataclass

from weftline import workflow

# What the machine has is found out. Here a GPU is declared, so that this file runs without one,
# and a resource of our own: two licences of some program.
workflow.init(num_gpus=1, resources={"licence": 2})


@dataclass(frozen=True)
class Model:
    trained_on: str


@workflow.step(num_gpus=1)
def train_model() -> Model:
    # This step is assigned a GPU, and sees no other one.
    return Model(trained_on=f"GPU {os.environ['CUDA_VISIBLE_DEVICES']}")


model = train_model.step().run()
print(model)
assert model.trained_on.startswith("GPU ")


# No more than two of these run at a time; half a processor each.
@workflow.step(num_cpus=0.5, resources={"licence": 1})
def convert(page: int) -> str:
    return f"page {page}"


@workflow.step(num_cpus=0)
def bind(pages: list[str]) -> str:
    return ", ".join(pages)


book = bind.step([convert.step(page) for page in range(4)]).run()
print(book)
assert book == "page 0, page 1, page 2, page 3"

# More than there is can never run, and is refused at once.
refusal = None
try:
    train_model.options(num_gpus=2).step().run()
except ValueError as error:
    refusal = str(error)
print("refused:", refusal)
assert refusal is not None
