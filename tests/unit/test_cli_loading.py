"""How `weft run FILE[:NAME]` finds what to run."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer import BadParameter

from weftline.authoring.step import Composition
from weftline.cli.loading import (
    Target,
    compose,
    find_target,
    load_file,
    new_id,
    parse_params,
    pick,
)
from weftline.errors import InvalidWorkflow

STEP = """
from weftline import workflow

@workflow.step(name="one")
def one(): return 1

@workflow.step(name="two")
def two(x=2): return x
"""


@pytest.fixture(autouse=True)
def _unchanged(tmp_path: Path) -> Iterator[None]:
    """The paths of this process, and its modules, as they were before."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, text: str, name: str = "flow.py") -> Path:
    path = folder / name
    path.write_text(dedent(text))
    return path


def target(folder: Path, text: str, name: str | None = None) -> Target:
    path = write(folder, text)
    return find_target(str(path) if name is None else f"{path}:{name}")


def refusal(folder: Path, text: str, name: str | None = None) -> str:
    with pytest.raises(BadParameter) as caught:
        target(folder, text, name)
    return str(caught.value.message)


# -- files --------------------------------------------------------------------------------------


def test_a_file_is_loaded_under_its_own_name_and_not_as_main(tmp_path: Path) -> None:
    path = write(tmp_path, "name = __name__\nfile = __file__\nran = __name__ == '__main__'")
    module = load_file(path)
    assert (module.name, module.file, module.ran) == ("flow", str(path), False)
    assert sys.modules["flow"] is module
    assert sys.path[0] == str(tmp_path)


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "answer = 42", "neighbour_of_flow.py")
    assert load_file(write(tmp_path, "from neighbour_of_flow import answer")).answer == 42


def test_a_file_named_workflow_is_the_normal_case(tmp_path: Path) -> None:
    path = write(tmp_path, STEP + "main = one.step()", "workflow.py")
    found = find_target(str(path))
    assert (found.name, type(found.thing).__name__) == ("main", "Workflow")
    assert found.thing._function.__module__ == "workflow"


@pytest.mark.parametrize("name", ["random", "typer", "numpy", "sys", "__main__"])
def test_a_file_named_like_another_module_does_not_take_its_place(
    tmp_path: Path, name: str
) -> None:
    import numpy as np
    import typer

    before = {n: sys.modules.get(n) for n in (name, "random", "typer", "numpy")}
    module = load_file(write(tmp_path, "x = 1", f"{name}.py"))
    assert module.__name__ == f"{name}_py"
    assert {n: sys.modules.get(n) for n in before} == before
    assert sys.path[-1] == str(tmp_path)
    assert sys.path[0] != str(tmp_path)
    assert (np.__name__, typer.__name__) == ("numpy", "typer")


def test_a_file_named_random_leaves_the_standard_library_whole(tmp_path: Path) -> None:
    write(tmp_path, STEP + "import random\nassert random.random() < 1\nmain = one.step()")
    (tmp_path / "flow.py").rename(tmp_path / "random.py")
    script = dedent("""
        import sys
        sys.modules.pop("random", None)
        from pathlib import Path
        from weftline.cli.loading import find_target
        print(find_target("random.py").name)
        import random, secrets
        print(random.randint(1, 1), len(secrets.token_hex(4)))
    """)
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("main\n1 8\n", "")


def test_an_edited_file_is_read_anew_even_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    path = write(tmp_path, "x = 1")
    assert load_file(path).x == 1
    stamp = path.stat().st_mtime_ns
    write(tmp_path, "x = 2")
    os.utime(path, ns=(stamp, stamp))
    assert load_file(path).x == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (flow.py, line 2)"),
        ("x = (\n", "SyntaxError: '(' was never closed (flow.py, line 1)"),
        ("import no_such_module_here", "ModuleNotFoundError: No module named"),
        ("def f():\n    raise SystemExit(3)\nf()", "SystemExit: 3 (flow.py, line 2)"),
        ("from weftline import workflow\nworkflow.step(bogus=1)", "unknown step option 'bogus'"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "flow.py"
    path.write_text(text)
    with pytest.raises(InvalidWorkflow) as caught:
        find_target(str(path))
    assert str(caught.value).startswith("flow.py cannot be loaded: ")
    assert told in str(caught.value)
    assert "flow" not in sys.modules


def test_files_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "", "notes.txt")
    for text, told in (
        (f"{tmp_path}/none.py", "there is no file"),
        (f"{tmp_path}/none.py:main", "there is no file"),
        (str(tmp_path), "is a folder"),
        (f"{tmp_path}/notes.txt", "is not a Python file"),
        (f"{write(tmp_path, STEP)}:", "no name follows the colon"),
    ):
        with pytest.raises(BadParameter, match=told):
            find_target(text)


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def main(): ...\nworkflow = one.step()", "main"),
        ("workflow = one.step()\nother = two.step()", "workflow"),
        ("def workflow(): ...", "workflow"),
        ("main = 1\nworkflow = one.step()", "workflow"),
        ("other = two.step(one.step())", "other"),
        ("other = same = two.step(one.step())", "other"),
        ("del two", "one"),
    ],
)
def test_without_a_name_main_then_workflow_then_the_only_one_is_run(
    tmp_path: Path, text: str, name: str
) -> None:
    assert target(tmp_path, STEP + text).name == name


def test_several_candidates_are_listed(tmp_path: Path) -> None:
    told = refusal(tmp_path, STEP)
    assert "several steps" in told
    assert "(there are one, two)" in told
    told = refusal(tmp_path, STEP + "a = one.step()\nb = one.step()")
    assert "several compositions" in told
    assert "(there are a, b)" in told


def test_steps_of_other_files_are_no_candidates(tmp_path: Path) -> None:
    write(tmp_path, STEP, "other_steps_of_flow.py")
    text = "from other_steps_of_flow import one, two\n"
    assert "has nothing to run" in refusal(tmp_path, text)
    assert target(tmp_path, text, "two").name == "two"


def test_a_name_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    text = STEP + "def prepare(): ...\n"
    assert refusal(tmp_path, text, "prepar") == "flow.py has no 'prepar'; did you mean 'prepare'?"
    told = refusal(tmp_path, text, "zzz")
    assert told == "flow.py has no 'zzz' (there are one, two, prepare)"


@pytest.mark.parametrize(
    ("text", "kind"), [("x = 3", "int"), ("class x: ...", "type"), ("import sys as x", "module")]
)
def test_a_name_of_something_else_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    assert f"'x' of flow.py is a {kind}" in refusal(tmp_path, STEP + text, "x")


# -- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('"1"', "1"),
        ("[1, 2]", [1, 2]),
        ('{"a": {}}', {"a": {}}),
        ("text", "text"),
        ("True", "True"),
        ("", ""),
        ("a=b", "a=b"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1e999", "1e999"),
        ("[" * 100_000, "[" * 100_000),
        ("007", "007"),
        ("é", "é"),
    ],
)
def test_a_parameter_is_json_or_else_a_text(text: str, value: Any) -> None:
    parsed = parse_params([f"x={text}"])["x"]
    assert parsed == value
    assert type(parsed) is type(value)
    assert not (isinstance(parsed, float) and not math.isfinite(parsed))


def test_all_parameters_that_are_none_are_told_at_once() -> None:
    with pytest.raises(BadParameter) as caught:
        parse_params(["a", "b=1", "b=2", "=3", "1x=4"])
    for told in ("'a' is not", "'b' is given twice", "'=3' is not", "'1x=4' is not"):
        assert told in caught.value.message


def composed(folder: Path, text: str, params: dict[str, Any]) -> Composition[Any]:
    return compose(target(folder, STEP + text), params)


def test_parameters_are_the_functions_arguments(tmp_path: Path) -> None:
    text = "def main(a, /, b, *, c=3, **more): return two.step([a, b, c, more])"
    made = composed(tmp_path, text, {"a": 1, "b": 2, "d": 4})
    assert made._args == ([1, 2, 3, {"d": 4}],)
    assert composed(tmp_path, "del one", {"x": 5})._kwargs == {"x": 5}


def test_parameters_that_do_not_fit_are_told_at_once(tmp_path: Path) -> None:
    text = "def main(data, epochs, rate=0.1, *rest): return one.step()"
    with pytest.raises(BadParameter) as caught:
        composed(tmp_path, text, {"epoch": 1, "zzz": 2, "data": 3})
    told = caught.value.message
    assert told.startswith(
        "'main' of flow.py: it takes no parameter 'epoch'; did you mean 'epochs'?"
    )
    assert "it takes no parameter 'zzz'" in told
    assert "it needs --param epochs=..." in told
    assert told.endswith("(it takes data, epochs, rate)")


def test_a_composition_takes_no_parameters(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="is a composition and takes no --param"):
        composed(tmp_path, "main = one.step()", {"a": 1})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def main(): pass", "'main' of flow.py returned None: it must return a composition"),
        ("def main(): return one", "returned the step 'one' itself"),
        ("def main(): return [one.step()]", "returned a value of type list"),
        ("async def main(): return one.step()", "is an async function"),
        ("def main():\n    return {}['x']", "failed: KeyError: 'x' (flow.py, line 10)"),
    ],
)
def test_a_function_that_gives_no_composition_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        composed(tmp_path, text, {})
    assert told in str(caught.value)


# -- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "start"),
    [
        ("train", "digits/workflow.py", "train-"),
        ("main", "digits/workflow.py", "digits-"),
        ("main", "digits/train.py", "train-"),
        ("main", "my flow/main.py", "my-flow-"),
    ],
)
def test_a_new_id_says_what_runs(name: str, file: str, start: str, tmp_path: Path) -> None:
    found = new_id(Target(name, None, tmp_path / file))
    assert found.startswith(start)
    assert len(found) == len(start) + 8
    assert found != new_id(Target(name, None, tmp_path / file))


def test_pick_takes_a_module_for_no_candidate(tmp_path: Path) -> None:
    path = write(tmp_path, STEP + "del one, two")
    with pytest.raises(BadParameter, match="has nothing to run"):
        pick(load_file(path), None, path)
