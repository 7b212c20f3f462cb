"""What mypy makes of the public API, in programs as users write them."""

from pathlib import Path

import pytest

import weftline

api = pytest.importorskip("mypy.api")

ACTORS = """
from weftline import workflow

class Plain:
    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

@workflow.virtual_actor
class Decorated(Plain):
    @workflow.virtual_actor.readonly
    def get(self) -> int:
        return self.value

Counter = workflow.virtual_actor(Plain)
reveal_type(Counter.get_or_create("id", 1))
reveal_type(Counter.get_or_create("id", value=1).add.run(2))
Counter.get_or_create("id", "one")
Counter.get_or_create(1, 1)
reveal_type(Decorated.get_or_create("id", 1))
Decorated.get_or_create("id", 1).add.run(2)
Decorated.get_or_create(1)
"""


SAID = """\
19: note: Revealed type is "weftline.api.actors.VirtualActor"
20: note: Revealed type is "Any"
21: error: Argument 2 to "get_or_create" of "ActorClass" has incompatible type "str"; expected "int"
22: error: Argument 1 to "get_or_create" of "ActorClass" has incompatible type "int"; expected "str"
23: note: Revealed type is "weftline.api.actors.VirtualActor"
25: error: Argument 1 to "get_or_create" of "Decorated" has incompatible type "int"; expected "str"
"""


def test_mypy_knows_virtual_actors(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source, settings = Path(weftline.__file__).parents[1], tmp_path / "mypy.ini"
    settings.write_text(
        f"[mypy]\nstrict = true\nmypy_path = {source}\nplugins = weftline.mypy_plugin\n"
    )
    # What mypy found out of the package is kept from one run of the tests to the next.
    cache = request.config.cache
    folder = tmp_path / "cache" if cache is None else cache.mkdir("mypy")
    words = ["--config-file", str(settings), "--cache-dir", str(folder)]
    out, err, _ = api.run([*words, "--no-error-summary", "--hide-error-codes", "-c", ACTORS])
    assert err == ""
    assert out.replace("<string>:", "") == SAID
