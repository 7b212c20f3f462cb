"""`weft runs show` with a timeline, and of one step: real runs, and one that a test wrote down."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Raw

from tests.e2e.commands import Terminal, Weft, readable, record
from tests.e2e.conftest import Gate, eventually
from tests.graphs import Book, graph, step
from weftline.adapters.objects.local import LocalObjectStore
from weftline.core.events import StepSucceeded

FLAKY = """
from weftline import workflow

@workflow.step(name="load", num_cpus=0.5, metadata={"owner": "me"})
def load(): return {"rows": 3}

@workflow.step(name="flaky", max_retries=2, retry_delay_s=0.05)
def flaky(data):
    print("try", workflow.current().attempt)
    if workflow.current().attempt == 1: raise OSError("not yet")
    return "\\n".join(f"row {n}" for n in range(60))

@workflow.step(name="grow")
def grow(data): return load.step()

main = grow.step(flaky.step(load.step()))
"""


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    yield made
    made.close()


@pytest.fixture
def flaky(weft: Weft) -> Weft:
    weft.write("flaky.py", FLAKY)
    weft("run", "flaky.py", "--id", "f", "-q")
    return weft


# -- timelines ----------------------------------------------------------------------------------


def test_a_timeline_shows_each_try_and_what_lay_between(flaky: Weft) -> None:
    out, err = flaky("runs", "show", "f", "--timeline", COLUMNS="90")
    assert err == ""
    head, drawing = out.split("\n\n")
    assert head.startswith("run       f\n")
    lines = drawing.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d to \d\d:\d\d:\d\d \(.+\)", lines[0])
    assert [line.split()[1] for line in lines[3:7]] == ["load", "flaky", "grow", "load_1"]
    assert re.search(r"━*✗┈+━+ .* 1 failed$", lines[4])
    assert lines[7] == "   ┈ delay before a retry   ✗ failed"
    assert max(map(len, lines)) <= 90
    plain, _ = flaky("runs", "show", "f", "--timeline", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert plain.isascii()
    assert re.search(r"v  flaky +=*x:+=+", plain)


def test_a_timeline_for_programs_is_a_list_of_spans(flaky: Weft) -> None:
    spans = flaky.json("runs", "show", "f", "--timeline")
    assert [(each["step"], each["attempt"], each["kind"], each["outcome"]) for each in spans] == [
        ("load", 1, "attempt", "succeeded"),
        ("flaky", 1, "attempt", "failed"),
        ("flaky", 1, "retry-delay", "ended"),
        ("flaky", 2, "attempt", "succeeded"),
        ("grow", 1, "attempt", "returned steps"),
        ("load_1", 1, "attempt", "succeeded"),
    ]
    times = [time for each in spans for time in (each["started_at"], each["ended_at"])]
    assert times == sorted(times)


def test_what_runs_is_drawn_up_to_now_and_what_was_left_up_to_its_end(
    weft: Weft, gate: Gate
) -> None:
    process = weft.start("run", "flow.py:slow", "-p", f"gate={gate.path}", "--id", "r", "-q")
    gate.wait_for(2)

    def running() -> list[str]:
        spans = weft.json("runs", "show", "r", "--timeline")
        return [each["outcome"] for each in spans]

    eventually(lambda: running() == ["running"] * 2, "their starts are recorded")
    out, _ = weft("runs", "show", "r", "--timeline")
    assert out.count("╍  ") == 2
    assert "... 1 step not begun" in out
    process.kill()
    process.wait()
    assert running() == ["interrupted", "interrupted"]


def test_a_timeline_fits_the_terminal(flaky: Weft) -> None:
    terminal = Terminal(flaky, "runs", "show", "f", "--timeline", width=60)
    shown = terminal.end(0)
    terminal.close()
    lines = shown.splitlines()
    assert 50 < max(map(len, lines[lines.index("") :])) <= 60
    assert "━" in readable(terminal.raw)


# -- one step -----------------------------------------------------------------------------------


def test_a_step_is_shown_with_its_tries_inputs_output_and_log(flaky: Weft) -> None:
    out, _ = flaky("runs", "show", "f", "flaky")
    head, tries, value = out.split("\n\n")
    assert head.splitlines() == [
        "step      flaky (of run f)",
        "status    SUCCESSFUL",
        "inputs    load",
        "occupies  1 CPU",
        "printed   12 B on stdout, 0 B on stderr; weft runs logs f --step flaky shows it",
    ]
    rows = [re.split(r"  +", line) for line in tries.splitlines()]
    assert rows[0] == ["WHAT", "BEGAN", "TOOK", "OUTCOME", "WORKER", "WHY"]
    assert [(row[0], row[3]) for row in rows[1:]] == [
        ("try 1", "failed"),
        ("retry delay", "ended"),
        ("try 2", "succeeded"),
    ]
    assert rows[1][5] == "OSError: not yet"
    assert value.splitlines()[0] == "value"
    shown = flaky.json("runs", "show", "f", "load")
    assert (shown["status"], shown["attempts"], shown["inputs"]) == ("SUCCESSFUL", 1, [])
    assert shown["placement"]["num_cpus"] == 0.5
    assert shown["metadata"] == {"owner": "me"}
    assert shown["picture"] is None
    assert "rows" in shown["preview"]
    flaky_step = flaky.json("runs", "show", "f", "flaky")
    assert [each.get("reason") for each in flaky_step["spans"]] == ["OSError: not yet", None, None]
    assert flaky_step["printed_bytes"] == {"out": 12, "err": 0}


def test_a_step_that_returned_steps_shows_the_value_they_came_to(flaky: Weft) -> None:
    out, _ = flaky("runs", "show", "f", "grow")
    assert "returned  1 step\n" in out
    assert re.search(r"value\n  \{.rows.: ?3\}\n$", out)


def test_a_failed_step_is_shown_with_its_traceback(weft: Weft) -> None:
    weft("run", "flow.py:checked", "--id", "bad", "-q", status=1)
    out, _ = weft("runs", "show", "bad", "check")
    assert "error     ValueError: only 2 rows\n" in out
    assert "traceback\n" in out
    assert 'raise ValueError(f"only {len(data)} rows")' in out
    assert weft.json("runs", "show", "bad", "check")["error"]["type"] == "ValueError"


def test_a_step_that_waits_for_its_inputs_or_for_a_cpu_says_so(weft: Weft, gate: Gate) -> None:
    process = weft.start(
        "run", "flow.py:slow", "-p", f"gate={gate.path}", "--id", "r", "-q", WEFTLINE_NUM_CPUS="1"
    )
    gate.wait_for(1)
    shown = weft.json("runs", "show", "r", "pair")
    assert (shown["status"], shown["waits"]) == ("WAITING", [])
    waiting = {
        name: weft.json("runs", "show", "r", name)["waits"] for name in ("wait_here", "wait_here_1")
    }
    assert "resources" in [each["for"] for waits in waiting.values() for each in waits]
    process.kill()
    process.wait()
    out, _ = weft("runs", "show", "r", "wait_here")
    assert "status    READY" in out


# -- pictures -----------------------------------------------------------------------------------


@pytest.fixture
def pictured(weft: Weft) -> Weft:
    """A home with a run of one step, whose value has a picture."""
    home = weft.folder / "home"
    name = LocalObjectStore(home / "objects").put(b"\x89PNG of a figure")
    book = Book(graph(step("plot")))
    preview = "a  b\n1  2"
    book.record(StepSucceeded(0, 1, Raw(b'["inline","json",1]'), 101.0, "w", preview, picture=name))
    record(home, "p", book, objects=[name])
    return weft


def test_a_picture_is_told_of_and_written_to_a_file(pictured: Weft) -> None:
    out, _ = pictured("runs", "show", "p", "plot")
    assert "picture   weft runs show p plot --picture FILE.png writes it\n" in out
    assert out.endswith("value\n  a  b\n  1  2\n")
    assert len(pictured.json("runs", "show", "p", "plot")["picture"]) == 64
    _, err = pictured("runs", "show", "p", "plot", "--picture", "plot.png")
    assert err == "note: the picture is in plot.png (16 B)\n"
    assert (pictured.folder / "plot.png").read_bytes() == b"\x89PNG of a figure"
    _, err = pictured("runs", "show", "p", "plot", "--picture", "none/plot.png", status=1)
    assert err.startswith("error: the picture cannot be written to none/plot.png: No such file")


def test_a_step_without_a_picture_is_an_error(flaky: Weft) -> None:
    _, err = flaky("runs", "show", "f", "load", "--picture", "x.png", status=1)
    assert err == (
        "error: step 'load' of run 'f' has no picture: only figures and images have one\n"
    )
    assert not (flaky.folder / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["f", "load", "--timeline"], "--timeline is of a whole run: leave out the STEP"),
        (["f", "--picture", "x.png"], "--picture is of one step: name the STEP"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(weft: Weft, words: list[str], told: str) -> None:
    assert weft("runs", "show", *words, status=2) == ("", f"error: {told}\n")


def test_a_step_that_is_not_there_is_told_with_one_that_is_near(flaky: Weft) -> None:
    _, err = flaky("runs", "show", "f", "flakey", status=1)
    assert err == "error: run 'f' has no step 'flakey'; did you mean 'flaky'?\n"
