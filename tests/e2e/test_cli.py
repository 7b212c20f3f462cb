"""The command `weft` as a person and a program use it: real processes, and a real terminal."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import weftline
from tests.e2e.commands import FLOW, Terminal, Weft, readable
from tests.e2e.conftest import PATIENCE_S, Gate


@pytest.fixture
def weft(tmp_path: Path) -> Iterator[Weft]:
    made = Weft(tmp_path)
    yield made
    made.close()


@pytest.fixture
def terminals(weft: Weft) -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.close()


# -- weft run -----------------------------------------------------------------------------------


def test_a_run_gives_its_result_on_stdout_and_tells_the_rest_on_stderr(weft: Weft) -> None:
    out, err = weft("run", "flow.py", "--param", "n=5")
    assert sorted(out.splitlines()) == [
        *[f"(load) loading {5}"],
        "(train) training 0",
        "(train_1) training 1",
        "(train_2) training 2",
        "{'best': 20, 'of': 3}",
    ]
    assert out.splitlines()[-1] == "{'best': 20, 'of': 3}"
    found = re.search(r"goes on with: weft runs resume (flow-[0-9a-f]{8})\n", err)
    assert found
    run_id = found[1]
    assert "(train_1) warm 1\n" in err
    assert re.search(r"^\[ *[\d.]+ m?s\] best: done in ", err, re.MULTILINE)
    assert re.search(rf"run {run_id} SUCCESSFUL in [\d.]+ m?s, 5 steps\n", err)
    assert f"  weft runs show {run_id} " in err
    assert weft.json("runs", "show", run_id)["params"] == {"n": 5}
    assert weft.ran() == ["best", "load", "train", "train", "train"]


def test_quiet_shows_only_the_result(weft: Weft) -> None:
    assert weft("run", "flow.py", "-q", "--id", "a") == ("{'best': 12, 'of': 3}\n", "")
    assert weft("run", "flow.py", "-q", "--id", "a") == ("{'best': 12, 'of': 3}\n", "")


def test_a_name_is_run_from_another_folder(weft: Weft) -> None:
    (weft.folder / "deep").mkdir()
    (weft.folder / "flow.py").rename(weft.folder / "deep" / "workflow.py")
    out, err = weft("run", "deep/workflow.py:scored", "--id", "x")
    assert out == "Score(value=0.5, name='svc')\n"
    assert "run x: 'scored' of workflow.py\n" in err
    # Without the file the class comes out of the journal.
    assert weft("runs", "output", "x")[0] == "Score(value=0.5, name='svc')\n"


def test_a_used_id_gives_the_recorded_result_and_tells_of_changes(weft: Weft) -> None:
    weft("run", "flow.py", "--id", "demo", "--param", "n=5", "--param", "fan=1")
    ran = weft.ran()
    out, err = weft("run", "flow.py", "--id", "demo", "--param", "n=5", "--param", "fan=1")
    assert out == "{'best': 0, 'of': 1}\n"
    assert "run 'demo' has ended before; nothing runs, this is its recorded result" in err
    assert "warning" not in err
    weft.write("flow.py", FLOW.replace("max(scores)", "min(scores)"))
    out, err = weft("run", "flow.py", "--id", "demo", "--param", "fan=1", "--param", "n=6")
    assert out == "{'best': 0, 'of': 1}\n"
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "--param it was started with: n was 5 and is 6" in warnings[0]
    assert "the code of step 'best' was edited" in warnings[1]
    _, err = weft("run", "flow.py", "--id", "demo")
    assert "n=5 is not given now; fan=1 is not given now" in err
    assert weft.ran() == ran


def test_a_failed_run_tells_the_users_error_and_goes_on_where_it_failed(weft: Weft) -> None:
    _, err = weft("run", "flow.py:checked", "--id", "c", status=1)
    assert "error: run 'c' failed in step 'check': ValueError: only 2 rows\n" in err
    assert 'raise ValueError(f"only {len(data)} rows")' in err
    assert str(Path(weftline.__file__).parent) not in err  # only the user's own frames
    assert "goes on with: weft runs resume c\n" in err
    assert weft.status("c") == "FAILED"
    weft("runs", "resume", "c", status=1)
    weft.write("mended", "")
    out, err = weft("runs", "resume", "c")
    assert out == "good\n"
    assert "run c goes on: 1 of 2 steps have ended before\n" in err
    assert weft.ran() == ["check", "check", "check", "load"]
    assert weft("runs", "resume", "c")[0] == "good\n"
    assert weft.ran() == ["check", "check", "check", "load"]


def test_json_is_all_there_is_on_stdout(weft: Weft) -> None:
    text = 'print("at the top")\n' + FLOW + "\ndef noisy():\n    print('hi')\n    return main()\n"
    weft.write("flow.py", text)
    done = weft.json("run", "flow.py:noisy", "--id", "a")
    assert done.pop("took_s") > 0
    assert done == {
        "id": "a",
        "status": "SUCCESSFUL",
        "result": {"best": 12, "of": 3},
        "steps": 5,
    }
    again = weft.json("run", "flow.py:noisy", "--id", "a")
    assert (again["result"], again["took_s"]) == ({"best": 12, "of": 3}, None)
    assert weft.json("run", "flow.py:scored")["preview"] == "Score(value=0.5, name='svc')"
    failed = weft.json("run", "flow.py:checked", "--id", "c", status=1)
    assert (failed["status"], failed["step"]) == ("FAILED", "check")
    assert failed["error"]["text"] == "only 2 rows"
    assert weft.json("runs", "resume", "a")["result"] == {"best": 12, "of": 3}


def test_a_large_run_is_told_in_few_lines(weft: Weft) -> None:
    flow = """
        from weftline import workflow
        one = workflow.step(name="one")(lambda n: n)
        total = workflow.step(name="total")(lambda ns: sum(ns))
        main = total.step([one.step(n) for n in range(2000)])
    """
    weft.write("large.py", flow)
    out, err = weft("run", "large.py", "--id", "l")
    assert out == "1999000\n"
    assert "2,001 of 2,001 steps ended" in err
    assert len(err.splitlines()) < 20
    shown, _ = weft("runs", "show", "l")
    assert re.search(r"^✓  one ×2,000 .* 2,000 done$", shown, re.MULTILINE)


def test_no_text_of_a_user_acts_on_the_terminal(weft: Weft, terminals: list[Terminal]) -> None:
    flow = r"""
        from weftline import workflow

        @workflow.step(name="evil[bold]\x1b]0;title\x07\x1b[2Jname")
        def evil():
            print("[red]out[/red]\x1b[31m\x1b[2J red")
            raise ValueError("[blink]no[/blink]\x1b[5m\x1b]0;x\x07")

        main = evil.step()
    """
    weft.write("evil.py", flow)
    out, err = weft("run", "evil.py", "--id", "[b]e[/b]", status=1)
    assert out == "(evil[bold]name) [red]out[/red] red\n"
    assert "failed in step 'evil[bold]" in err
    assert "ValueError: [blink]no[/blink]\n" in err
    assert weft("runs", "logs", "[b]e[/b]")[0] == "evil[bold]name | [red]out[/red] red\n"
    assert "[b]e[/b]" in weft("runs", "list")[0]
    terminals.append(terminal := Terminal(weft, "run", "evil.py", "--id", "[b]e[/b]"))
    terminal.end(1)
    terminals.append(shown := Terminal(weft, "runs", "show", "[b]e[/b]"))
    assert "✗  evil[bold]name" in shown.end(0)
    for raw in (terminal.raw, shown.raw):
        for sequence in (b"\x1b[2J", b"\x1b]0", b"\x1b[5m"):
            assert sequence not in raw


# -- being stopped ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_without_a_terminal_a_signal_leaves_the_run_resumable(
    weft: Weft, gate: Gate, number: int, status: int
) -> None:
    process = weft.start("run", "flow.py:slow", "--id", "s", "--param", f"gate={gate.path}")
    gate.wait_for(2)
    process.send_signal(number)
    _, err = weft.end(process, status)
    assert "run s was left RESUMABLE; it goes on with: weft runs resume s\n" in err
    assert weft.status("s") == "RESUMABLE"
    assert weft.ran() == []
    gate.open(2)
    assert weft("runs", "resume", "s")[0].splitlines()[-1] == "['one', 'two']"


def test_a_run_that_nobody_reads_any_more_is_left_resumable(weft: Weft, gate: Gate) -> None:
    process = weft.start("run", "flow.py:slow", "--id", "s", "--param", f"gate={gate.path}")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # the first line of a step finds nobody; nothing passes the gate
    err = process.stderr.read()
    assert process.wait(PATIENCE_S) == 141
    assert "run s was left RESUMABLE" in err
    assert weft.status("s") == "RESUMABLE"


def test_a_run_that_goes_on_elsewhere_is_left_alone(weft: Weft, gate: Gate) -> None:
    process = weft.start("run", "flow.py:slow", "--id", "s", "--param", f"gate={gate.path}")
    gate.wait_for(2)
    for words in (
        ("run", "flow.py:slow", "--id", "s", "--param", f"gate={gate.path}"),
        ("runs", "resume", "s"),
        ("runs", "delete", "s", "--yes"),
    ):
        assert "error: run 's' is " in weft(*words, status=1)[1].splitlines()[-1]
    # That a step runs is recorded once it has been running for a moment.
    while [one["status"] for one in weft.json("runs", "show", "s")["graph"]].count("RUNNING") < 2:
        pass
    assert weft.status("s") == "RUNNING"
    shown, _ = weft("runs", "show", "s")
    assert re.search(r"^● *wait_here ×2 .*2 running$", shown, re.MULTILINE)
    assert weft("runs", "output", "s", status=1)[1].startswith(
        "error: run 's' has no value: the run is RUNNING"
    )
    logs = weft("runs", "logs", "s")[0].splitlines()
    assert sorted(logs) == ["wait_here | waiting", "wait_here_1 | waiting"]
    gate.open(2)
    assert weft.end(process)[0].splitlines()[-1] == "['one', 'two']"


def slow_on(
    weft: Weft, gate: Gate, terminals: list[Terminal], *words: str, **size: int
) -> Terminal:
    param = f"gate={gate.path}"
    terminal = Terminal(weft, "run", "flow.py:slow", "--id", "t", "--param", param, *words, **size)
    terminals.append(terminal)
    gate.wait_for(2)
    return terminal


def test_a_terminal_shows_a_live_tree(weft: Weft, gate: Gate, terminals: list[Terminal]) -> None:
    terminal = slow_on(weft, gate, terminals)
    terminal.read_until("2 running")
    gate.open()
    terminal.read_until("1/2, 1 running")
    gate.open()
    seen = terminal.end(0)
    frame = seen[seen.rindex("✓ wait_here ×2") :].splitlines()
    assert re.fullmatch(r"✓ wait_here ×2 +[\d.]+ m?s  ━{24}  2/2 *", frame[0])
    assert re.fullmatch(r"  ✓ pair +[\d.]+ m?s *", frame[1])
    assert re.fullmatch(r"  3 of 3 steps, [\d.]+ m?s *", frame[2])
    assert "(wait_here) waiting" in readable(terminal.raw)
    assert "['one', 'two']" in seen
    assert "weft runs output t" in seen


def test_a_small_terminal_is_not_overrun(weft: Weft, gate: Gate, terminals: list[Terminal]) -> None:
    terminal = slow_on(weft, gate, terminals, height=6, width=40)
    terminal.read_until("running")
    gate.open(2)
    assert "['one', 'two']" in terminal.end(0)
    frames = re.split(r"\x1b\[1A", terminal.raw.decode("utf-8", "replace"))
    assert max(frame.count("\n") for frame in frames[1:-1]) <= 6
    longest = max(len(line) for line in readable(terminal.raw).splitlines() if "━" in line)
    assert longest <= 40


def test_ctrl_c_asks_and_cancels(weft: Weft, gate: Gate, terminals: list[Terminal]) -> None:
    terminal = slow_on(weft, gate, terminals)
    terminal.type("\x03")
    terminal.read_until("Cancel run 't', or leave it to be resumed later? [c/L] ")
    terminal.type("what\n")
    terminal.read_until("Please answer c (cancel) or l (leave it, so that it can be resumed): ")
    terminal.type("c\n")
    seen = terminal.end(130)
    assert "run t was canceled" in seen
    assert "■ pair" in seen
    assert weft.status("t") == "CANCELED"


@pytest.mark.parametrize("answer", ["\n", "l\n", "\x03", "\x04"])
def test_ctrl_c_asks_and_leaves(
    weft: Weft, gate: Gate, terminals: list[Terminal], answer: str
) -> None:
    terminal = slow_on(weft, gate, terminals)
    terminal.type("\x03")
    terminal.read_until("[c/L] ")
    terminal.type(answer)
    assert "run t was left RESUMABLE; it goes on with: weft runs resume t" in terminal.end(130)
    assert weft.status("t") == "RESUMABLE"


def test_a_run_that_ends_while_the_question_stands_has_ended(
    weft: Weft, gate: Gate, terminals: list[Terminal]
) -> None:
    terminal = slow_on(weft, gate, terminals)
    terminal.type("\x03")
    terminal.read_until("[c/L] ")
    gate.open(2)
    while weft.status("t") != "SUCCESSFUL":
        pass
    terminal.type("l\n")
    seen = terminal.end(0)
    assert "['one', 'two']" in seen
    assert "RESUMABLE" not in seen


def test_sigterm_while_the_question_stands_leaves_the_run(
    weft: Weft, gate: Gate, terminals: list[Terminal]
) -> None:
    terminal = slow_on(weft, gate, terminals)
    terminal.type("\x03")
    terminal.read_until("[c/L] ")
    terminal._process.send_signal(signal.SIGTERM)
    terminal.end(143)
    assert weft.status("t") == "RESUMABLE"


# -- weft runs ----------------------------------------------------------------------------------


@pytest.fixture
def many(weft: Weft) -> Weft:
    """A home with three runs: a good one, a failed one, and one of a class of the user."""
    weft("run", "flow.py", "--id", "good", "-q")
    weft("run", "flow.py:checked", "--id", "bad", "-q", status=1)
    weft("run", "flow.py:scored", "--id", "own", "-q")
    return weft


def test_runs_are_listed_newest_first_and_filtered(many: Weft) -> None:
    def ids(*words: str) -> list[str]:
        return [one["id"] for one in many.json("runs", "list", *words)]

    assert ids() == ["own", "bad", "good"]
    assert ids("--status", "failed") == ["bad"]
    assert ids("--status", "FAILED", "--status", "successful") == ["own", "bad", "good"]
    assert ids("--status", "RESUMABLE") == []
    assert ids("--workflow", "best") == ["good"]
    assert ids("--limit", "2") == ["own", "bad"]
    assert ids("--limit", "0") == ["own", "bad", "good"]
    out, err = many("runs", "list", "--limit", "2")
    lines = out.splitlines()
    assert lines[0].split() == ["ID", "WORKFLOW", "STATUS", "STEPS", "CREATED", "TOOK"]
    assert re.match(r"own +score +SUCCESSFUL +1/1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\S", lines[1])
    assert "the newest 2; --limit 0 lists all" in err
    assert many("runs", "list", "--status", "paused") == ("", "note: no such run\n")
    first = many.json("runs", "list", "--status", "failed")[0]
    assert (first["steps"], first["succeeded"]) == (2, 1)
    assert first["error"]["type"] == "ValueError"


def test_a_run_is_shown_with_its_graph(many: Weft) -> None:
    out, err = many("runs", "show", "good")
    head, drawing = out.split("\n\n")
    assert re.match(r"run +good\nworkflow +best\nstatus +SUCCESSFUL\nsteps +5 of 5", head)
    assert [
        re.sub(r" +[\d.]+(?: m?s)?(?: to [\d.]+)? m?s", " TIME", line)
        for line in drawing.splitlines()
    ] == [
        "✓  load TIME",
        "✓  train ×3 TIME  3 done",
        "✓  best TIME",
    ]
    assert "weft runs output good" in err
    out, err = many("runs", "show", "bad")
    assert "error     ValueError: only 2 rows (step 'check')\n" in out
    assert "✗  check" in out
    assert "weft runs resume bad" in err
    shown = many.json("runs", "show", "good")
    graph = {step["name"]: step for step in shown["graph"]}
    assert graph["best"]["inputs"] == ["train", "train_1", "train_2"]
    assert graph["load"]["status"] == "SUCCESSFUL"
    assert (graph["load"]["preview"], graph["load"]["picture"]) == (None, None)
    (own,) = many.json("runs", "show", "own")["graph"]
    assert own["preview"] == "Score(value=0.5, name='svc')"
    assert many.json("runs", "show", "bad")["failed_step"] == "check"


def test_values_are_printed_of_runs_and_of_steps(many: Weft) -> None:
    assert many("runs", "output", "good") == ("{'best': 12, 'of': 3}\n", "")
    assert many("runs", "output", "good", "--step", "load") == ("[0, 1, 2, 3]\n", "")
    assert many.json("runs", "output", "good") == {
        "id": "good",
        "step": None,
        "value": {"best": 12, "of": 3},
    }
    assert many("runs", "output", "own")[0] == "Score(value=0.5, name='svc')\n"
    assert many.json("runs", "output", "own")["preview"] == "Score(value=0.5, name='svc')"
    assert many("runs", "output", "bad", "--step", "load")[0] == "[0, 1]\n"
    told = "failed: ValueError: only 2 rows\n"
    assert many("runs", "output", "bad", status=1)[1].endswith(told)
    assert many("runs", "output", "bad", "--step", "check", status=1)[1].endswith(told)


def test_a_value_that_cannot_be_loaded_is_shown_as_it_was_noted(weft: Weft) -> None:
    flow = """
        from weftline import workflow

        def rebuild(): raise ImportError("this class is gone")

        class Fragile:
            def __reduce__(self): return rebuild, ()
            def __repr__(self): return "<Fragile 7>"

        @workflow.step(name="make")
        def make(): return Fragile()

        main = make.step()
    """
    weft.write("fragile.py", flow)
    out, err = weft("run", "fragile.py", "--id", "f")
    assert out == "<Fragile 7>\n"
    assert "warning: the result cannot be loaded here: ImportError: this class is gone\n" in err
    out, err = weft("runs", "output", "f")
    assert out == "<Fragile 7>\n"
    assert "this class is gone" in err
    assert weft.json("runs", "output", "f", "--step", "make")["preview"] == "<Fragile 7>"


def test_logs_are_printed_with_the_names_of_their_steps(many: Weft) -> None:
    out, err = many("runs", "logs", "good")
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "load | loading 4"
    assert sorted(lines[1:]) == sorted(
        [
            f"{name} {what}"
            for k, name in enumerate(("train", "train_1", "train_2"))
            for what in (f"| training {k}", f"! warm {k}")
        ]
    )
    assert many("runs", "logs", "good", "--step", "train_1")[0].splitlines() == [
        "train_1 | training 1",
        "train_1 ! warm 1",
    ]
    assert (
        many("runs", "logs", "good", "--step", "train", "--stream", "err")[0] == "train ! warm 0\n"
    )
    [document] = many.json("runs", "logs", "good", "--step", "load")
    assert (document["step"], document["attempt"], document["stream"]) == ("load", 1, "out")
    assert document["text"] == "loading 4\n"
    assert many("runs", "logs", "own") == ("", "note: nothing was printed\n")


def test_logs_of_one_attempt_and_logs_that_are_gone(weft: Weft) -> None:
    flow = """
        from weftline import workflow

        @workflow.step(name="flaky", max_retries=2)
        def flaky():
            print("try", workflow.current().attempt)
            if workflow.current().attempt == 1: raise OSError("not yet")
            return 1

        main = flaky.step()
    """
    weft.write("flaky.py", flow)
    weft("run", "flaky.py", "--id", "f", "-q")
    assert weft("runs", "logs", "f")[0] == "flaky | try 1\nflaky #2 | try 2\n"
    assert weft("runs", "logs", "f", "--attempt", "2")[0] == "flaky #2 | try 2\n"
    for path in (weft.folder / "home" / "logs").glob("*.out"):
        path.unlink()
    out, err = weft("runs", "logs", "f")
    assert out == ""
    assert err.count("note: what step 'flaky' printed is gone: there is no file ") == 2
    assert weft.json("runs", "logs", "f") == []


def test_a_run_is_deleted_when_that_is_sure(many: Weft, terminals: list[Terminal]) -> None:
    _, err = many("runs", "delete", "good", status=2)
    assert "cannot be undone: say --yes" in err
    terminals.append(no := Terminal(many, "runs", "delete", "good"))
    no.read_until("Delete run 'good' (SUCCESSFUL, 5 steps) for good? [y/N] ")
    no.type("\n")
    assert "nothing was deleted" in no.end(1)
    terminals.append(yes := Terminal(many, "runs", "delete", "good"))
    yes.read_until("[y/N] ")
    yes.type("y\n")
    assert "run good is deleted" in yes.end(0)
    assert many.json("runs", "delete", "bad", "--yes") == {"id": "bad", "deleted": True}
    assert [one["id"] for one in many.json("runs", "list")] == ["own"]
    many("runs", "delete", "good", "--yes", status=1)


@pytest.mark.parametrize("verb", ["show", "output", "logs", "resume", "delete"])
def test_an_unknown_id_is_told_with_one_that_is_near(weft: Weft, verb: str) -> None:
    words = ["--yes"] if verb == "delete" else []
    out, err = weft("runs", verb, "demo", *words, status=1)
    assert (out, err) == (
        "",
        "error: there is no run 'demo'; `weft runs list` shows those there are\n",
    )
    weft("run", "flow.py:scored", "--id", "demos-2", "-q")
    _, err = weft("runs", verb, "demo", *words, status=1)
    assert err == "error: there is no run 'demo'; did you mean 'demos-2'?\n"


def test_an_unknown_step_is_told_with_one_that_is_near(many: Weft) -> None:
    for verb in ("output", "logs"):
        _, err = many("runs", verb, "good", "--step", "trian_1", status=1)
        assert err == "error: run 'good' has no step 'trian_1'; did you mean 'train_1'?\n"
        _, err = many("runs", verb, "good", "--step", "zzz", status=1)
        assert err.endswith("; it has best, train, train_1, train_2, load\n")


def test_an_empty_home_says_so(weft: Weft) -> None:
    assert weft("runs", "list") == ("", "note: no runs yet\n")
    assert weft.json("runs", "list") == []


# -- wrong use ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "missing argument 'FILE[:NAME]'"),
        (["run", "none.py"], "there is no file 'none.py'"),
        (["run", "flow.py:nothing"], "flow.py has no 'nothing'"),
        (["run", "flow.py", "--id", ""], "--id must not be empty"),
        (["run", "flow.py", "--param", "x"], "--param 'x' is not of the form name=value"),
        (["run", "flow.py", "--param", "x=1"], "it takes no parameter 'x' (it takes n, fan)"),
        (["run", "flow.py:slow"], "it needs --param gate=..."),
        (["run", "flow.py:scored", "--param", "x=1"], "is a composition and takes no --param"),
        (["run", "flow.py", "--bogus"], "no such option: --bogus"),
        (["fly"], "no such command 'fly'"),
        (["runs", "show"], "missing argument 'ID'"),
        (["runs", "list", "--status", "RUNING"], "'RUNING' is no status; did you mean 'RUNNING'?"),
        (["runs", "list", "--limit", "-1"], "invalid value for '--limit'"),
        (["runs", "logs", "x", "--stream", "both"], "--stream is out or err, not 'both'"),
    ],
)
def test_wrong_use_is_one_message_and_status_2(weft: Weft, words: list[str], told: str) -> None:
    out, err = weft(*words, status=2)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err


def test_an_error_is_one_message_and_with_debug_a_traceback(weft: Weft) -> None:
    weft.write("broken.py", "no\n")
    told = "error: broken.py cannot be loaded: NameError: name 'no' is not defined"
    assert weft("run", "broken.py", status=1) == ("", f"{told} (broken.py, line 1)\n")
    for words in (["--debug", "run", "broken.py"], ["run", "broken.py", "--debug"]):
        process = weft.start(*words)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert "Traceback (most recent call last)" in err


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WEFTLINE_NUM_CPUS": "many"}, "WEFTLINE_NUM_CPUS='many'"),
        ({"WEFTLINE_STORAGE": "ftp://x"}, "Invalid url: ftp://x."),
    ],
)
def test_settings_that_cannot_be_used_are_an_error(
    weft: Weft, variables: dict[str, str], told: str
) -> None:
    _, err = weft("runs", "list", status=1, **variables)
    assert err.startswith("error: ")
    assert told in err


def test_a_step_that_asks_for_too_much_is_an_error_before_anything_starts(weft: Weft) -> None:
    flow = """
        from weftline import workflow
        main = workflow.step(name="big", num_cpus=1000)(print).step()
    """
    weft.write("big.py", flow)
    _, err = weft("run", "big.py", "--id", "b", status=1)
    assert "error: step 'big' " in err
    weft("runs", "show", "b", status=1)


def test_steps_of_this_process_can_be_run_too(weft: Weft) -> None:
    out, _ = weft("run", "flow.py", "--id", "a", WEFTLINE_EXECUTOR="inline")
    assert out.splitlines()[-1] == "{'best': 12, 'of': 3}"
    assert weft.status("a") == "SUCCESSFUL"


# -- help ---------------------------------------------------------------------------------------


def test_help_and_version_are_there(weft: Weft) -> None:
    assert weft("--version")[0] == f"weft {weftline.__version__}\n"
    assert "Run a workflow from here" in weft("--help")[0]
    assert "FILE[:NAME]" in weft("run", "--help")[0]
    for words in ([], ["runs"]):
        out, err = weft(*words, status=2)
        assert out == ""
        assert "Usage: weft" in err


def test_help_loads_nothing_that_only_a_run_needs(weft: Weft) -> None:
    script = (
        "import sys\n"
        "from weftline.cli.main import main\n"
        "try: main(['run', '--help'])\n"
        "finally: print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=weft.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    heavy = {"weftline.app", "weftline.codecs", "weftline.core.run", "weftline.cli.run"}
    assert not loaded & (heavy | {"numpy", "sqlite3", "cloudpickle", "msgspec", "asyncio"})
