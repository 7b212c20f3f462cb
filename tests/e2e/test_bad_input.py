"""What a person does wrong, and what a machine does to them: one clear message each."""

import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Gate, Scripts, in_background, note, notes, pass_gate
from weftline import workflow
from weftline.errors import (
    InvalidOption,
    InvalidWorkflow,
    NotPicklable,
    StorageFull,
)


@workflow.step(name="echo")
def echo(*args: Any, **kwargs: Any) -> Any:
    return args[0] if args else None


def message_of(error: BaseException) -> str:
    """The message, which is one line: no list of causes and no traceback."""
    text = str(error)
    assert text
    assert "\n" not in text
    return text


# -- what cannot be carried ---------------------------------------------------------------------


def test_a_function_that_cannot_be_pickled_names_its_global(scripts: Scripts) -> None:
    said = scripts.run(
        """
        import threading
        from weftline import workflow

        LOCK = threading.Lock()

        def guarded(number):
            with LOCK:
                return number

        @workflow.step
        def outer(number):
            return guarded(number)

        try:
            outer.step(1).run("an id")
        except ValueError as error:
            print(type(error).__name__, error)
        print(workflow.list_all())
        """
    )
    first, second = said.splitlines()
    assert first.startswith("NotPicklable function 'outer' cannot be stored: ")
    assert "function 'guarded' needs the global 'LOCK'" in first
    assert "cannot pickle '_thread.lock' object" in first
    assert second == "[]"


@pytest.mark.usefixtures("home")
def test_a_function_that_cannot_be_pickled_names_its_closure_variable(run_id: str) -> None:
    connection = sqlite3.connect(":memory:")

    @workflow.step
    def ask() -> Any:
        return connection.execute("select 1")

    with pytest.raises(NotPicklable, match=r"'.*ask'.*closure variable 'connection'"):
        ask.step().run(run_id)
    connection.close()
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("args", "kwargs", "which"),
    [
        ((1, threading.Lock()), {}, "argument 2 of step 'echo'"),
        ((1,), {"guard": threading.Lock()}, "argument 'guard' of step 'echo'"),
        (({"a": [0, threading.Lock()]},), {}, r"argument 1 of step 'echo'\['a'\]\[1\]"),
    ],
    ids=["by position", "by name", "deep inside"],
)
def test_an_argument_that_cannot_be_pickled_is_named(
    run_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], which: str
) -> None:
    with pytest.raises(NotPicklable, match=f"^{which}: cannot pickle") as caught:
        echo.step(echo.step(), echo.step(*args, **kwargs)).run(run_id)
    message_of(caught.value)
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)


@pytest.mark.usefixtures("home")
def test_a_function_that_holds_a_composition_is_refused() -> None:
    made = echo.step(1)

    @workflow.step(name="holder")
    def holder() -> Any:
        return made

    with pytest.raises(NotPicklable, match=r"'made'.*composition of step 'echo'"):
        holder.step().run()


@pytest.mark.usefixtures("home")
def test_an_argument_that_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotPicklable, match=r"argument 1 of step 'echo'.* nested too deeply"):
        echo.step(deep).run()
    while deep:  # taken apart here, since to forget it whole is as deep
        deep = deep[0]


@pytest.mark.usefixtures("home")
def test_a_result_that_cannot_be_pickled_names_its_step(run_id: str) -> None:
    @workflow.step(name="careless")
    def careless() -> Any:
        return {"fine": 1, "lock": threading.Lock()}

    with pytest.raises(NotPicklable, match=r"result of step 'careless'\['lock'\]: cannot pickle"):
        echo.step(careless.step()).run(run_id)
    assert workflow.get_status(run_id) == "FAILED"

    @workflow.step(name="lazy")
    def lazy() -> Iterator[int]:
        yield 1

    with pytest.raises(NotPicklable, match="result of step 'lazy': cannot pickle 'generator'"):
        lazy.step().run()


# -- what is written wrongly --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_retry": 3}, "unknown step option 'max_retry'; did you mean 'max_retries'?"),
        ({"timeout": 3}, "unknown step option 'timeout'; did you mean 'timeout_s'?"),
        ({"zzz": 3}, "unknown step option 'zzz'"),
        ({"placement_group": None}, "option 'placement_group' of Ray is not supported: there"),
        ({"timeout_s": "1"}, "option timeout_s='1' must be a positive number of seconds, or None"),
        ({"num_cpus": -1}, "option num_cpus=-1 must be a number, at least 0"),
        ({"name": 1}, "option name=1 must be a non-empty string"),
        ({"catch_exceptions": 1}, "option catch_exceptions=1 must be True or False"),
        ({"retry_on": ["x"]}, r"option retry_on=['x'] must be an exception class or a tuple"),
        ({"num_returns": 2}, "option num_returns=2 must be 1"),
        ({"runtime_env": {"pip": []}}, "has 'pip', which is not supported: only 'env_vars' is"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], said: str) -> None:
    for refuse in (echo.options, workflow.step):
        with pytest.raises(InvalidOption) as caught:
            refuse(**options)
        assert said in message_of(caught.value)


@pytest.mark.usefixtures("home")
def test_texts_and_numbers_that_cannot_be_stored_are_refused(run_id: str) -> None:
    lone = "\udcff"  # half of a character
    for metadata in ({"a": lone}, {lone: 1}, {"a": 2**100}):
        with pytest.raises(InvalidOption, match=r"metadata=.* what JSON can hold"):
            echo.options(metadata=metadata)
        with pytest.raises(InvalidOption, match=r"metadata=.* what JSON can hold"):
            echo.step(1).run(run_id, metadata=metadata)
    for options in (
        {"name": lone},
        {"resources": {lone: 0}},
        {"runtime_env": {"env_vars": {"A": lone}}},
        {"max_retries": 2**64},
        {"num_cpus": 10**400},
        {"timeout_s": 10**400},
    ):
        with pytest.raises(InvalidOption, match=next(iter(options))):
            echo.options(**options)
    for call in (echo.step(1).run, workflow.get_status, workflow.resume):
        with pytest.raises(ValueError, match="workflow id"):
            call(lone)
    assert echo.step(1).run(run_id) == 1


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(InvalidOption) as caught:
        echo.options(max_retry=3, num_cpus="many", name="fine")
    assert "'max_retry'" in str(caught.value)
    assert "num_cpus='many'" in str(caught.value)
    assert "fine" not in str(caught.value)


@pytest.mark.usefixtures("home")
def test_a_composition_that_contains_itself_is_refused(run_id: str) -> None:
    items: list[Any] = []
    outer = echo.options(name="outer").step(items)
    items.append(echo.options(name="inner").step(outer))
    with pytest.raises(InvalidWorkflow, match=r"circle: (inner -> outer|outer -> inner)") as caught:
        outer.run(run_id)
    message_of(caught.value)
    with pytest.raises(workflow.WorkflowNotFoundError):
        workflow.get_status(run_id)


@pytest.mark.usefixtures("home")
def test_a_composition_that_is_its_own_argument_is_refused() -> None:
    items: list[Any] = [1]
    items.append(echo.options(name="itself").step(items))
    with pytest.raises(ValueError, match="circle: itself -> itself"):
        items[1].run()


@pytest.mark.usefixtures("home")
def test_a_step_that_runs_its_own_run_is_refused(run_id: str) -> None:
    @workflow.step(name="eager")
    def eager() -> Any:
        return echo.step(1).run(run_id)

    with pytest.raises(workflow.WorkflowRunningError, match="'eager' runs its own run") as caught:
        eager.step().run(run_id)
    assert "return the composition instead, or give it another id" in message_of(caught.value)
    assert caught.value.workflow_id == run_id
    assert workflow.get_status(run_id) == "FAILED"


@pytest.mark.parametrize("wrong", [1, 1.5, ["x"], b"x"])
def test_a_storage_that_is_no_place_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="storage must be a directory or a URL"):
        workflow.init(storage=wrong)
    with pytest.raises(TypeError, match="database must be a directory or a URL"):
        workflow.init(database=wrong)


def test_a_home_that_is_a_file_or_cannot_be_written(scripts: Scripts) -> None:
    (scripts.folder / "file").touch()
    source = """
        import sys
        from weftline import workflow

        @workflow.step
        def one():
            return 1

        try:
            workflow.init(storage=sys.argv[1])
            one.step().run()
        except Exception as error:
            print(type(error).__name__, error)
        """
    assert scripts.run(source, "file") == (
        f"InvalidSettings {scripts.folder / 'file'} is a file;"
        " the home of workflows must be a directory\n"
    )
    said = scripts.run(source, "/proc/nowhere/home")
    assert said.startswith("StorageError ")
    assert "/proc/nowhere" in said


# -- what happens to what is stored -------------------------------------------------------------


def test_a_damaged_object_is_told_and_its_step_can_run_again(scripts: Scripts) -> None:
    source = """
        import sys
        from weftline import workflow

        @workflow.step(name="large")
        def large():
            note("executions")
            return "x" * 100_000

        @workflow.step(name="size")
        def size(text):
            if not Path("mended").exists():
                raise RuntimeError("broken")
            return len(text)

        try:
            print(size.step(large.step()).run("an id"))
        except Exception as error:
            print(type(error).__name__, error)
        try:
            print(len(workflow.get_output("an id", name="large").result()))
        except Exception as error:
            print(type(error).__name__, error)
        """
    assert scripts.run(source) == "RuntimeError broken\n100000\n"
    (scripts.folder / "mended").touch()
    objects = scripts.home / "objects"
    damaged = next(path for path in objects.rglob("?" * 64) if path.stat().st_size > 100_000)
    content = bytearray(damaged.read_bytes())
    content[500] ^= 1
    damaged.write_bytes(content)
    for line in scripts.run(source).splitlines():
        assert line.startswith(f"ObjectDamaged object {damaged.name} is damaged")
        assert str(damaged) in line
    content[500] ^= 1
    damaged.write_bytes(content)
    assert scripts.run(source) == "100000\n100000\n"
    assert len(notes(scripts.folder / "executions")) == 1


def test_a_missing_object_is_told(scripts: Scripts) -> None:
    source = """
        from weftline import workflow

        @workflow.step
        def large():
            return "x" * 100_000

        try:
            print(len(large.step().run("an id")))
        except Exception as error:
            print(type(error).__name__, error)
        """
    assert scripts.run(source) == "100000\n"
    lost = next(p for p in scripts.home.rglob("?" * 64) if p.stat().st_size > 100_000)
    lost.unlink()
    assert scripts.run(source).startswith(f"ObjectNotFound object {lost.name} is not in ")


def test_a_home_of_a_newer_version_is_left_alone(scripts: Scripts) -> None:
    source = """
        from weftline import workflow

        @workflow.step
        def one():
            return 1

        for call in (lambda: print(one.step().run()), lambda: print(len(workflow.list_all()))):
            try:
                call()
            except Exception as error:
                print(type(error).__name__, error)
        """
    assert scripts.run(source) == "1\n1\n"
    path = scripts.home / "weftline.db"
    database = sqlite3.connect(path)
    (schema,) = database.execute("PRAGMA user_version").fetchone()
    database.execute("PRAGMA user_version = 4711")
    database.close()
    for line in scripts.run(source).splitlines():
        assert line.startswith("NewerHome ")
        assert str(scripts.home) in line
        assert "newer" in line
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (4711,)
    database.execute(f"PRAGMA user_version = {schema}")
    database.close()
    assert scripts.run(source) == "1\n2\n"


def test_a_database_that_is_none_is_told(scripts: Scripts) -> None:
    scripts.home.mkdir()
    (scripts.home / "weftline.db").write_bytes(b"this is no database\n" * 500)
    said = scripts.run(
        """
        from weftline import workflow

        try:
            workflow.step(len).step("x").run()
        except Exception as error:
            print(type(error).__name__, error)
        try:
            workflow.list_all()
        except Exception as error:
            print(type(error).__name__, error)
        """
    )
    for line in said.splitlines():
        assert line.startswith(f"StorageError {scripts.home / 'weftline.db'}: ")
        assert "restore it from a backup" in line


# -- no space left ------------------------------------------------------------------------------

CHAIN = """
    import resource
    import sys
    import weftline.driving.drive
    from weftline import workflow

    weftline.driving.drive.PATIENCE_STORAGE_S = 0.3
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 0

    @workflow.step(num_cpus=0.1)
    def link(number, _):
        note("executions", str(number))
        return "x" * 20_000

    @workflow.step
    def one():
        return 1

    chain = None
    for number in range(60):
        chain = link.step(number, chain)
    one.step().run()  # children are there, and know of no limit
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        print(len(chain.run("chain")))
    except workflow.StorageFull as error:
        print(type(error).__name__, error)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        print(workflow.get_status("chain"), workflow.get_status("chain"))
    """


def is_sound(home: Path) -> bool:
    database = sqlite3.connect(home / "weftline.db")
    try:
        return bool(database.execute("PRAGMA integrity_check").fetchall() == [("ok",)])
    finally:
        database.close()


def test_a_size_limit_of_files_stops_a_run_cleanly(scripts: Scripts) -> None:
    full, status = scripts.run(CHAIN, 600_000, quiet=False).splitlines()
    assert full.startswith("StorageFull ")
    assert "run 'chain' was let go" in full
    assert "free some space, then resume it" in full
    assert status == "RESUMABLE RESUMABLE"
    assert is_sound(scripts.home)
    before = notes(scripts.folder / "executions")
    assert 0 < len(before) < 60
    assert before == [str(number) for number in range(len(before))]
    # The last step that ran could not be recorded, so it runs again, and none before it.
    assert scripts.run(CHAIN) == "20000\n"
    after = notes(scripts.folder / "executions")[len(before) :]
    assert int(after[0]) in (len(before) - 1, len(before))
    assert after == [str(number) for number in range(int(after[0]), 60)]
    assert is_sound(scripts.home)


FREES_SPACE = """
    import logging
    import resource

    class Free(logging.Handler):
        def emit(self, record):
            print(record.levelname, "nothing can be written" in record.getMessage())
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )

    logging.getLogger("weftline.engine").addHandler(Free())
    """


def test_a_run_goes_on_by_itself_when_space_is_freed_in_time(scripts: Scripts) -> None:
    said = scripts.run(FREES_SPACE + CHAIN.replace("_S = 0.3", "_S = 60"), 600_000)
    assert said == "WARNING True\n20000\n"
    assert notes(scripts.folder / "executions") == [str(number) for number in range(60)]
    assert is_sound(scripts.home)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here; the limit on file sizes is tested instead")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "ballast"),
    [(20_000, 15_000_000), (400_000, 10_000_000)],
    ids=["in the database", "as objects"],
)
def test_a_full_disk_stops_a_run_cleanly(
    scripts: Scripts, small_disk: Path, size: int, ballast: int
) -> None:
    source = """
        import sys
        import weftline.driving.drive
        from weftline import workflow

        weftline.driving.drive.PATIENCE_STORAGE_S = 0.3
        size = int(sys.argv[1])

        @workflow.step
        def link(number, _):
            note("executions", str(number))
            return f"{number:02}" * (size // 2)

        chain = None
        for number in range(25 if size > 32_768 else 100):
            chain = link.step(number, chain)
        try:
            print(len(chain.run("chain")))
        except workflow.StorageFull as error:
            print(type(error).__name__, error)
            print(workflow.get_status("chain"))
        """
    home, counter = small_disk / "home", scripts.folder / "executions"
    variables = {"WEFTLINE_HOME": str(home)}
    (small_disk / "ballast").write_bytes(bytes(ballast))
    full, status = scripts.run(source, size, quiet=False, variables=variables).splitlines()
    assert full.startswith("StorageFull ")
    assert "free some" in full
    assert status == "RESUMABLE"
    (small_disk / "ballast").unlink()
    assert is_sound(home)
    assert scripts.run(source, size, variables=variables) == f"{size}\n"
    # The step whose result could not be stored ran again, perhaps more than once; no other did.
    ran = [int(line) for line in notes(counter)]
    assert ran == sorted(ran)
    assert set(ran) == set(range(ran[-1] + 1))
    assert len([number for number in set(ran) if ran.count(number) > 1]) <= 1
    assert is_sound(home)


# -- what happens to processes ------------------------------------------------------------------


@pytest.mark.usefixtures("home")
def test_a_step_with_a_segmentation_fault_harms_nobody_else(run_id: str, gate: Gate) -> None:
    path = gate.path

    @workflow.step(name="crashing")
    def crashing() -> None:
        import ctypes

        ctypes.string_at(0)

    @workflow.step
    def wait() -> str:
        pass_gate(path)
        return "well"

    other = in_background(wait.step().run, f"{run_id} other")
    gate.wait_for()
    with pytest.raises(workflow.WorkflowExecutionError) as caught:
        crashing.step().run(run_id)
    said = message_of(caught.value)
    assert "step 'crashing' ended its process 4 times in a row" in said
    assert "SIGSEGV" in said
    assert f"workflow.resume({run_id!r})" in said
    assert workflow.get_status(run_id) == "RESUMABLE"
    gate.open()
    assert other.result(60) == "well"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None], ids=str)
def test_a_step_that_always_ends_its_process_is_quarantined(
    run_id: str, tmp_path: Path, number: int | None
) -> None:
    counter = tmp_path / "counter"

    @workflow.step(name="dying", max_retries=2)
    def dying(_: Any) -> None:
        note(counter)
        if number is None:
            os._exit(7)
        os.kill(os.getpid(), number)

    @workflow.step
    def before() -> str:
        note(counter, "before")
        return "kept"

    reason = "status 7" if number is None else signal.Signals(number).name
    with pytest.raises(workflow.WorkflowExecutionError, match=f"'dying'.*{reason}"):
        dying.step(before.step()).run(run_id)
    assert notes(counter) == ["before", *["x"] * 4]
    assert workflow.get_status(run_id) == "RESUMABLE"
    # Nobody tries it again but a person; then it counts anew.
    with pytest.raises(workflow.WorkflowExecutionError, match="4 times in a row"):
        workflow.resume(run_id).result()
    assert notes(counter) == ["before", *["x"] * 8]
    assert echo.step("well").run() == "well"


@pytest.mark.usefixtures("home")
def test_classes_of_these_errors_are_what_people_expect() -> None:
    for kind, expected in (
        (NotPicklable, ValueError),
        (InvalidOption, ValueError),
        (InvalidWorkflow, ValueError),
        (workflow.WorkflowNotFoundError, ValueError),
        (workflow.WorkflowRunningError, RuntimeError),
        (workflow.WorkflowRunningError, ValueError),
        (workflow.StepTimeoutError, TimeoutError),
        (StorageFull, OSError),
        (workflow.WorkflowExecutionError, RuntimeError),
    ):
        assert issubclass(kind, expected)
