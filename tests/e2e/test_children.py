"""Children as processes: how they end, what becomes of their attempts, and what they leave behind.

Steps and tests meet at gates, which are pipes; nothing here sleeps to be in time.
"""

import ctypes
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attempts import (
    Attempts,
    done,
    environment_here,
    kinds,
    make_children,
    open_objects,
)
from tests.e2e.conftest import Gate, eventually, pass_gate
from weftline.codecs.values import decode
from weftline.core.policy import DEFAULT_PLACEMENT, Placement
from weftline.ports.executor import (
    Attempt,
    Done,
    Failed,
    GivenBack,
    Lost,
    Printed,
    Refused,
    Report,
    Started,
    Succeeded,
    TimedOut,
)
from weftline.workers import dispatch as dispatch_module
from weftline.workers import environments as environments_module
from weftline.workers import logs as logs_module
from weftline.workers import oversight as oversight_module
from weftline.workers.children import Children
from weftline.workers.orphans import end_orphans
from weftline.workers.pool import MAX_CHILDREN
from weftline.workers.slots import Slots

Maker = Callable[..., Attempts]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    """Makes children of a home of their own, with the given numbers of CPUs and so on."""
    made: list[Children] = []

    def maker(
        num_cpus: float = 2,
        num_gpus: float = 0,
        resources: dict[str, float] | None = None,
        **changed: Any,
    ) -> Attempts:
        slots = Slots(num_cpus, num_gpus, resources, changed.pop("devices", ()))
        children = make_children(tmp_path, slots, **changed)
        made.append(children)
        return Attempts(children, open_objects(tmp_path))

    yield maker
    for each in made:
        each.close()


@pytest.fixture
def attempts(make: Maker) -> Attempts:
    return make()


def is_alive(pid: int) -> bool:
    """Whether the process exists, other than as an entry that nobody has collected yet."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def started(attempts: Attempts, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """An attempt that has been sent to a child."""
    attempt = attempts.make(function, *args, **options)
    attempts.start(attempt)
    return attempt


def send_together(attempts: Attempts, made: list[Attempt]) -> None:
    """Send them to an idle child in one frame, however many an executor would send."""
    executor: Any = attempts.executor
    kind = executor._lanes.kind_of(attempts.lane(made[0]))
    [child] = executor._dispatch._occupy(kind.group, (1, 0))
    executor._dispatch._send(child, made)


# -- death --------------------------------------------------------------------------------------


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (kill_self, "its process was ended by SIGKILL"),
        (crash, "its process was ended by a segmentation fault (SIGSEGV)"),
        (os.abort, "its process was ended by SIGABRT"),
        (lambda: os._exit(3), "its process exited with status 3"),
    ],
    ids=["killed", "segmentation fault", "abort", "exit"],
)
def test_an_attempt_is_lost_with_its_process(
    attempts: Attempts, function: Callable[[], None], says: str
) -> None:
    report = attempts.end_of(attempts.make(function))
    assert isinstance(report, Lost), report
    assert report.reason == says
    assert report.started_at > 1e9
    assert attempts.value_of(lambda: "goes on") == "goes on"


def test_the_stack_of_a_crash_is_in_the_log(attempts: Attempts, tmp_path: Path) -> None:
    report = attempts.end_of(attempts.make(crash))
    assert isinstance(report, Lost)
    assert report.log is not None
    text = (tmp_path / "logs" / f"{report.log.file}.err").read_text()
    assert "Segmentation fault" in text
    assert "in crash" in text


def test_only_the_running_attempt_is_lost(make: Maker) -> None:
    attempts = make(num_cpus=1)

    def deadly(path: str, is_last: bool) -> None:
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    first = attempts.make(deadly, "", False)
    made = [attempts.make(first.call) for _ in range(10)]
    made.append(attempts.make(deadly, "", True))
    made += [attempts.make(first.call) for _ in range(10)]
    attempts.drive(first)
    send_together(attempts, made)
    reports = attempts.wait_for(lambda found: done(found, *(one.key for one in made)))
    by_key = {each.key: each for each in reports if isinstance(each, Done)}
    ends = [type(by_key[one.key]).__name__ for one in made]
    assert ends[10] == "Lost"
    assert set(ends[11:]) == {"GivenBack"}
    # Those before it have ended; whether that was told in time, is not sure.
    assert set(ends[:10]) <= {"Succeeded", "GivenBack"}


def test_a_step_that_forks_and_returns_twice_counts_once(attempts: Attempts) -> None:
    def fork() -> int:
        return 0 if os.fork() == 0 else 1

    reports = attempts.drive(*(attempts.make(fork) for _ in range(4)))
    del reports[0]
    values = [decode(each.value, attempts.objects) for [each] in reports.values()]  # type: ignore[union-attr]
    assert values == [1] * 4


def test_a_step_that_breaks_the_connection_is_lost(attempts: Attempts) -> None:
    def write_into_it() -> None:
        os.write(3, b"\0\0\0\1!")
        os.read(os.pipe()[0], 1)

    report = attempts.end_of(attempts.make(write_into_it))
    assert isinstance(report, Lost), report
    assert "cannot be read" in report.reason

    def close_it() -> None:
        os.close(3)
        os.read(os.pipe()[0], 1)

    report = attempts.end_of(attempts.make(close_it))
    assert isinstance(report, Lost), report
    assert "closed the connection" in report.reason


def test_how_a_process_dies_counts_also_when_its_connection_ends_long_before(
    attempts: Attempts,
) -> None:
    until_looked_at_s = 2 * dispatch_module.STARTED_AFTER_S

    def close_it_and_die() -> None:
        os.close(3)
        time.sleep(until_looked_at_s)
        os.kill(os.getpid(), signal.SIGKILL)

    report = attempts.end_of(attempts.make(close_it_and_die))
    assert isinstance(report, Lost), report
    assert "SIGKILL" in report.reason


# -- what a step started ------------------------------------------------------------------------


def start_stubborn(gate: str) -> None:
    """Start a process that ignores requests to end, and wait with it."""
    source = (
        "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        " file = os.open(sys.argv[1] + '/arrived', os.O_RDWR);"
        " os.write(file, f'{os.getpid()}\\n'.encode()); signal.pause()"
    )
    subprocess.run([sys.executable, "-c", source, gate], check=True)


def test_a_timeout_ends_what_the_step_started(attempts: Attempts, gate: Gate) -> None:
    attempt = attempts.make(start_stubborn, gate.path, timeout_s=2.0)
    report = attempts.end_of(attempt)
    assert isinstance(report, TimedOut), report
    assert (report.after_s, report.started_at > 1e9) == (2.0, True)
    [pid] = gate.wait_for()
    eventually(lambda: not is_alive(int(pid)), "the grandchild is gone")


def test_killing_ends_what_the_step_started(attempts: Attempts, gate: Gate) -> None:
    attempt = started(attempts, start_stubborn, gate.path)
    [pid] = gate.wait_for()
    attempts.executor.kill({attempt.key})
    eventually(lambda: not is_alive(int(pid)), "the grandchild is gone")


def test_closing_ends_what_the_step_started(make: Maker, gate: Gate, tmp_path: Path) -> None:
    attempts = make()
    started(attempts, start_stubborn, gate.path)
    [pid] = gate.wait_for()
    attempts.executor.close()
    eventually(lambda: not is_alive(int(pid)), "the grandchild is gone")
    assert files(tmp_path / "engines") == []


def test_what_an_ended_attempt_left_running_ends_with_its_child(make: Maker, gate: Gate) -> None:
    attempts = make()

    def leave_behind(path: str) -> None:
        if os.fork() == 0:
            pass_gate(path, str(os.getpid()))
            os._exit(0)

    assert attempts.value_of(leave_behind, gate.path) is None
    [pid] = gate.wait_for()
    attempts.executor.close()
    eventually(lambda: not is_alive(int(pid)), "the fork is gone")


# -- time ---------------------------------------------------------------------------------------


def test_the_attempts_behind_one_that_timed_out_go_on(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)

    def wait_if(path: str | None) -> str:
        if path is not None:
            pass_gate(path)
        return "quick"

    quick = attempts.make(wait_if, None, timeout_s=60.0)
    attempts.drive(quick, attempts.make(quick.call), attempts.make(quick.call))
    slow = attempts.make(wait_if, gate.path, timeout_s=0.2)
    others = [attempts.make(quick.call, timeout_s=60.0) for _ in range(8)]
    reports = attempts.drive(*others[:4], slow, *others[4:])
    assert isinstance(reports[slow.key][-1], TimedOut)
    assert all(isinstance(reports[one.key][-1], Succeeded) for one in others)


def test_a_long_attempt_is_told_of_once_while_it_runs(attempts: Attempts, gate: Gate) -> None:
    attempt = started(attempts, pass_gate, gate.path)
    [begun] = attempts.wait_for(bool)
    assert isinstance(begun, Started), begun
    assert begun.key == attempt.key
    assert begun.at > 1e9
    gate.open()
    [end] = attempts.wait_for(lambda reports: done(reports, attempt.key))
    assert isinstance(end, Succeeded)
    assert end.started_at == begun.at
    assert end.worker == begun.worker


# -- sent ahead ---------------------------------------------------------------------------------


def test_ten_thousand_quick_attempts_are_each_reported_once(attempts: Attempts) -> None:
    call = attempts.call(lambda number: number + 1, 1)
    made = [attempts.make(call) for _ in range(10_000)]
    reports = attempts.drive(*made)
    assert all(isinstance(reports[one.key][-1], Succeeded) for one in made)
    workers = {
        each.worker for found in reports.values() for each in found if isinstance(each, Done)
    }
    assert len(workers - {""}) == 2


def test_attempts_behind_one_that_blocks_are_carried_out_elsewhere(
    attempts: Attempts, gate: Gate
) -> None:
    def wait_if(path: str | None) -> str | None:
        if path is not None:
            pass_gate(path)
        return path

    quick = attempts.make(wait_if, None)
    attempts.drive(*(attempts.make(quick.call) for _ in range(200)))  # known to be short now
    blocks = attempts.make(wait_if, gate.path)
    made = [attempts.make(quick.call) for _ in range(60)]
    lane = attempts.lane(blocks)
    assert attempts.executor.room(lane) > len(made)
    attempts.executor.start(lane, [blocks, *made])
    gate.wait_for()
    # None of them is done by letting the first one go on.
    left = {one.key: one for one in made}
    ended: list[Report] = []
    while left:
        for report in attempts.wait_for(bool):
            if isinstance(report, GivenBack):
                attempts.executor.start(lane, [left[report.key]])
            elif isinstance(report, Done):
                del left[report.key]
                ended.append(report)
    assert set(kinds(ended)) == {"Succeeded"}
    gate.open()
    reports = attempts.wait_for(lambda found: done(found, blocks.key))
    assert kinds(reports)[-1] == "Succeeded"


def test_an_outcome_is_not_held_back_by_a_long_attempt_behind_it(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)

    def wait_if(path: str | None) -> str | None:
        if path is not None:
            pass_gate(path)
        return path

    quick = attempts.make(wait_if, None)
    attempts.drive(*(attempts.make(quick.call) for _ in range(200)))
    first, blocks = attempts.make(quick.call), attempts.make(wait_if, gate.path)
    attempts.start(first, blocks)
    gate.wait_for()
    reports = attempts.wait_for(lambda found: done(found, first.key))
    assert kinds(reports) == ["Succeeded"]
    gate.open()
    attempts.wait_for(lambda found: done(found, blocks.key))


def test_ready_attempts_are_spread_over_the_children(attempts: Attempts) -> None:
    def who() -> int:
        return os.getpid()

    first = attempts.make(who)
    attempts.drive(first, *(attempts.make(first.call) for _ in range(200)))
    made = [attempts.make(first.call) for _ in range(4)]
    attempts.start(*made)
    busy = [child for child in attempts.executor._pool.children if child.outstanding]  # type: ignore[attr-defined]
    assert [len(child.outstanding) for child in busy] == [2, 2]
    attempts.wait_for(lambda found: done(found, *(one.key for one in made)))


def test_an_unknown_function_is_sent_one_at_a_time(attempts: Attempts) -> None:
    attempt = attempts.make(lambda: 1)
    assert attempts.executor.room(attempts.lane(attempt)) == 2
    long = Placement(num_cpus=0)
    assert attempts.executor.room(attempts.lane(attempt, long)) == MAX_CHILDREN


def test_another_kind_of_attempts_gets_its_turn(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)
    many = [attempts.make(abs, 1)]
    attempts.drive(many[0])
    many += [attempts.make(many[0].call) for _ in range(20_000)]
    other = attempts.make(len, "four")
    lanes = [attempts.lane(many[0]), attempts.lane(other)]
    waiting, ends = many[:0:-1], 0
    pending = [other]
    while True:
        room = attempts.executor.room(lanes[0])
        if room:
            attempts.executor.start(lanes[0], [waiting.pop() for _ in range(room)])
        if pending and attempts.executor.room(lanes[1]):
            attempts.executor.start(lanes[1], [pending.pop()])
        reports = attempts.executor.wait(10.0)
        ends += sum(isinstance(each, Succeeded) for each in reports)
        if any(each.key == other.key for each in reports if isinstance(each, Done)):
            break
    assert ends < 5_000


def test_large_frames_both_ways_do_not_block(make: Maker) -> None:
    attempts = make(num_cpus=1)
    text = b'["inline","json","%b"]' % (b"x" * 30_000)
    large = b'["list",[%b]]' % b",".join([text] * 170)  # 5 MB
    call = attempts.call(lambda: "y" * 30_000)
    made = [attempts.make(call) for _ in range(5)]
    made += [attempts.make(call, inputs=[large]) for _ in range(30)]
    made += [attempts.make(call) for _ in range(200)]
    reports = attempts.drive(made[0])[made[0].key]
    send_together(attempts, made[1:])
    reports += attempts.wait_for(lambda found: done(found, *(one.key for one in made[1:])))
    for report in [each for each in reports if isinstance(each, GivenBack)]:
        reports += [attempts.end_of(one) for one in made if one.key == report.key]
    values = [each.value for each in reports if isinstance(each, Succeeded)]
    assert values == [b'["inline","json","%b"]' % (b"y" * 30_000)] * len(made)


def test_a_step_does_not_see_who_watches_over_it(make: Maker) -> None:
    attempts = make(num_cpus=1)

    def look() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    first = attempts.make(look)
    made = [attempts.make(first.call) for _ in range(300)]
    reports = attempts.drive(first, *made)
    ends = [each for found in reports.values() for each in found if isinstance(each, Succeeded)]
    assert {each.value for each in ends} == {b'["inline","json",["MainThread"]]'}
    executor: Any = attempts.executor
    [child] = executor._pool.children
    assert len(os.listdir(f"/proc/{child.process.pid}/task")) == 2  # although there is somebody


def test_a_steps_signal_handlers_are_called_in_time(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)

    def wait_for_signal(path: str | None) -> str:
        if path is None:
            return ""
        found = []
        signal.signal(signal.SIGUSR1, lambda *_: found.append(threading.current_thread().name))
        pass_gate(path, str(os.getpid()))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        return str(found[0])

    attempts.drive(*(attempts.make(wait_for_signal, None) for _ in range(100)))
    attempt = started(attempts, wait_for_signal, gate.path)
    [pid] = gate.wait_for()
    os.kill(int(pid), signal.SIGUSR1)
    gate.open()
    reports = attempts.wait_for(lambda found: done(found, attempt.key))
    assert isinstance(reports[-1], Succeeded), reports
    assert decode(reports[-1].value, attempts.objects) == "MainThread"


# -- killing ------------------------------------------------------------------------------------


def test_killing_one_gives_the_others_of_its_child_back(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)

    def wait_if(path: str | None) -> str:
        if path is not None:
            pass_gate(path)
        return "fine"

    quick = attempts.make(wait_if, None)
    attempts.drive(*(attempts.make(quick.call) for _ in range(200)))
    blocks, other = attempts.make(wait_if, gate.path), attempts.make(quick.call)
    attempts.start(blocks, other)
    gate.wait_for()
    attempts.executor.kill({blocks.key})
    reports = attempts.wait_for(lambda found: done(found, other.key))
    assert kinds(reports) == ["GivenBack"]
    assert isinstance(attempts.end_of(other), Succeeded)


def test_a_killed_attempt_frees_its_slot(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)
    attempt = started(attempts, pass_gate, gate.path)
    gate.wait_for()
    attempts.executor.kill({attempt.key})
    assert attempts.value_of(lambda: 1) == 1
    assert gate.nobody_else()


# -- output -------------------------------------------------------------------------------------


def test_each_attempt_has_the_ranges_of_what_it_printed(make: Maker, tmp_path: Path) -> None:
    attempts = make(num_cpus=1)

    def say(number: int) -> None:
        if number % 3:
            print("out", number)
            print("tail", end="")
        if number % 2:
            print("err", number, file=sys.stderr)
            os.system("echo from a shell")

    made = [attempts.make(say, number) for number in range(20)]
    reports = attempts.drive(*made)
    for number, one in enumerate(made):
        report = reports[one.key][-1]
        assert isinstance(report, Succeeded)
        wanted = [f"out {number}\ntail" if number % 3 else "", ""]
        if number % 2:
            wanted = [wanted[0] + "from a shell\n", f"err {number}\n"]
        log = report.log
        if log is None:
            assert wanted == ["", ""]
            continue
        assert (log.file, report.worker) == ("engine.1", "engine.1")
        out = (tmp_path / "logs" / "engine.1.out").read_bytes()[log.out_start : log.out_end]
        err = (tmp_path / "logs" / "engine.1.err").read_bytes()[log.err_start : log.err_end]
        assert [out.decode(), err.decode()] == wanted


def test_no_file_before_the_first_byte(attempts: Attempts, tmp_path: Path) -> None:
    attempts.value_of(lambda: None)
    assert files(tmp_path / "logs") == []
    attempts.value_of(lambda: print("x"))
    assert files(tmp_path / "logs") == ["engine.1.out"]
    assert stat.S_IMODE((tmp_path / "logs" / "engine.1.out").stat().st_mode) == 0o600
    attempts.executor.close()
    assert files(tmp_path / "logs") == ["engine.1.out"]


def test_empty_logs_are_removed_where_files_need_a_name(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module.LogFolder, "_try_nameless", lambda self: False)
    attempts = make()
    attempts.value_of(lambda: print("x"))
    assert files(tmp_path / "logs") == ["engine.1.err", "engine.1.out"]
    attempts.executor.close()
    assert files(tmp_path / "logs") == ["engine.1.out"]


def test_lines_are_passed_on_as_they_come(attempts: Attempts, gate: Gate) -> None:
    def talk(path: str) -> None:
        print("one")
        print("tw", end="", flush=True)
        print("err", file=sys.stderr)
        pass_gate(path)
        print("o")
        print("no end", end="")

    attempt = started(attempts, talk, gate.path, forward=True)

    def texts(reports: list[Report], stream: str) -> list[str]:
        return [
            each.text for each in reports if isinstance(each, Printed) and each.stream == stream
        ]

    reports = attempts.wait_for(lambda found: texts(found, "stderr"))
    assert texts(reports, "stdout") == ["one\n"]
    assert texts(reports, "stderr") == ["err\n"]
    gate.open()
    rest = attempts.wait_for(lambda found: done(found, attempt.key))
    assert "".join(texts(rest, "stdout")) == "two\nno end"
    assert texts(rest, "stderr") == []
    assert isinstance(rest[-1], Succeeded)  # what it printed comes before its end


def test_a_step_may_close_its_output(attempts: Attempts) -> None:
    def close() -> str:
        os.close(1)
        sys.stderr.close()
        return "fine"

    assert attempts.value_of(close) == "fine"
    assert attempts.value_of(lambda: "next") == "next"


def test_what_a_lost_attempt_printed_is_passed_on(attempts: Attempts) -> None:
    def talk() -> None:
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)

    attempt = attempts.make(talk, forward=True)
    reports = attempts.drive(attempt)[attempt.key]
    assert kinds(reports) == ["Printed", "Lost"]
    assert reports[0].text == "last words\n"  # type: ignore[union-attr]


def test_much_output_comes_in_parts_and_whole(attempts: Attempts) -> None:
    def talk() -> None:
        print("é" * 1_500_000)
        for number in range(200_000):
            print("line", number)
        os.write(1, b"\xff and no text")

    attempt = attempts.make(talk, forward=True)
    reports = attempts.drive(attempt)[attempt.key]
    texts = [each.text for each in reports if isinstance(each, Printed)]
    assert max(len(text.encode()) for text in texts) <= logs_module.PART_BYTES
    lines = "".join(f"line {number}\n" for number in range(200_000))
    assert "".join(texts) == "é" * 1_500_000 + "\n" + lines + "\ufffd and no text"


def test_without_forward_nothing_is_passed_on(attempts: Attempts) -> None:
    attempt = attempts.make(lambda: print("x"))
    assert kinds(attempts.drive(attempt)[attempt.key]) == ["Succeeded"]


# -- where it runs ------------------------------------------------------------------------------


def test_gpus_are_the_ones_that_were_given(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=8, num_gpus=3, devices=("5", "6", "7"))

    def look(path: str | None) -> str:
        if path is not None:
            pass_gate(path)
        return os.environ.get("CUDA_VISIBLE_DEVICES", "none")

    assert attempts.value_of(look, None, placement=Placement(num_gpus=2)) == "5,6"
    assert attempts.value_of(look, None, placement=Placement(num_gpus=0.5)) == "5"
    assert attempts.value_of(look, None) == os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    held = attempts.make(look, gate.path)
    attempts.start(held, placement=Placement(num_gpus=1))
    gate.wait_for()
    assert attempts.value_of(look, None, placement=Placement(num_gpus=2)) == "6,7"
    gate.open()
    attempts.wait_for(lambda reports: done(reports, held.key))


def test_shares_of_a_gpu_run_at_the_same_time(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=8, num_gpus=1)
    made = [attempts.make(pass_gate, gate.path) for _ in range(3)]
    half = Placement(num_gpus=0.5)
    lane = attempts.lane(made[0], half)
    assert attempts.executor.room(lane) == 2
    attempts.executor.start(lane, made[:2])
    gate.wait_for(2)
    assert attempts.executor.room(lane) == 0
    gate.open(2)
    attempts.wait_for(lambda reports: done(reports, made[0].key, made[1].key))


def test_no_more_children_work_than_there_are_cpus(make: Maker, gate: Gate) -> None:
    attempts = make(num_cpus=1)
    half = Placement(num_cpus=0.5)
    made = [attempts.make(pass_gate, gate.path) for _ in range(4)]
    lane = attempts.lane(made[0], half)
    assert attempts.executor.room(lane) == 2
    attempts.executor.start(lane, made[:2])
    gate.wait_for(2)
    assert attempts.executor.room(lane) == 0
    assert attempts.executor.room(attempts.lane(made[0], Placement(num_cpus=0))) > 2
    gate.open(4)
    attempts.wait_for(lambda reports: done(reports, made[0].key, made[1].key))
    assert attempts.executor.room(lane) == 2


def test_children_stay_warm_for_what_is_alike_and_make_way_for_the_rest(make: Maker) -> None:
    attempts = make(num_cpus=1)
    pids = [attempts.value_of(os.getpid) for _ in range(3)]
    assert len(set(pids)) == 1
    placements = [Placement(env_vars=(("NUMBER", str(number)),)) for number in range(6)]
    others = [attempts.value_of(os.getpid, placement=each) for each in placements]
    assert len(set(others)) == 6
    # Four may stay: the ones used last.
    assert attempts.value_of(os.getpid, placement=placements[-1]) == others[-1]
    eventually(lambda: not attempts.executor.wait(0.0) and not is_alive(pids[0]), "it made way")


def test_many_idle_children_become_few(
    make: Maker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (dispatch_module, oversight_module):
        monkeypatch.setattr(module, "SURPLUS_AFTER_S", 0.0)
    attempts = make(num_cpus=1)
    nothing = Placement(num_cpus=0)
    made = [attempts.make(pass_gate, gate.path, str(number)) for number in range(6)]
    attempts.start(*made, placement=nothing)
    gate.wait_for(6)
    gate.open(6)
    executor: Any = attempts.executor
    attempts.wait_for(lambda reports: done(reports, *(one.key for one in made)))
    eventually(lambda: not executor.wait(0.0) and len(executor._pool.children) == 4, "four stay")
    assert attempts.value_of(lambda: 1, placement=nothing) == 1


def test_a_child_that_does_not_come_to_its_end_is_ended(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (environments_module, oversight_module):
        monkeypatch.setattr(module, "EXIT_WITHIN_S", 0.1)
    attempts = make(num_cpus=1)

    def leave_a_thread() -> int:
        threading.Thread(target=threading.Event().wait).start()
        return os.getpid()

    pid = attempts.value_of(leave_a_thread)
    for number in range(4):
        placement = Placement(env_vars=(("NUMBER", str(number)),))
        attempts.value_of(os.getpid, placement=placement)
    eventually(lambda: not attempts.executor.wait(0.0) and not is_alive(pid), "it was ended")


def test_a_gpu_is_not_kept_by_an_idle_child_of_another_sort(make: Maker) -> None:
    attempts = make(num_cpus=8, num_gpus=2)
    plain, other = Placement(num_gpus=1), Placement(num_gpus=1, env_vars=(("OTHER", "1"),))
    first = attempts.value_of(os.getpid, placement=plain)
    on_cpu = attempts.value_of(os.getpid)
    assert attempts.value_of(os.getpid, placement=plain) == first
    attempts.value_of(os.getpid, placement=other)
    eventually(lambda: not attempts.executor.wait(0.0) and not is_alive(first), "it made way")
    assert attempts.value_of(os.getpid) == on_cpu


def test_a_child_finds_itself_where_the_run_was_submitted(make: Maker, tmp_path: Path) -> None:
    attempts = make(variables={"EXTRA": "given"}, engine="an-engine")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "only_there.py").write_text("ANSWER = 42\n")
    (tmp_path / "work").mkdir()
    path = (str(tmp_path / "modules"), *sys.path)
    attempts.environment = environment_here(cwd=str(tmp_path / "work"), sys_path=path)

    def look() -> list[Any]:
        import only_there  # type: ignore[import-not-found]

        main = sys.modules["__main__"]
        names = ("EXTRA", "WEFTLINE_HOME", "WEFTLINE_CHILD")
        return [
            only_there.ANSWER,
            os.getcwd(),
            sys.path,
            sorted(name for name in vars(main) if not name.startswith("__")),
            [os.environ[name] for name in names],
            os.getsid(0) == os.getpid(),
            os.read(0, 1),
        ]

    assert attempts.value_of(look) == [
        42,
        str(tmp_path / "work"),
        list(path),
        [],
        ["given", str(tmp_path), f"an-engine/1/{tmp_path}"],
        True,
        b"",
    ]


def test_pythonpath_of_a_step_is_searched_first(attempts: Attempts, tmp_path: Path) -> None:
    (tmp_path / "extra_module.py").write_text("ANSWER = 7\n")

    def look() -> Any:
        import extra_module  # type: ignore[import-not-found]

        return extra_module.ANSWER

    placement = Placement(env_vars=(("PYTHONPATH", str(tmp_path)),))
    assert attempts.value_of(look, placement=placement) == 7


def test_a_folder_that_is_gone_is_replaced_with_a_warning(
    attempts: Attempts, tmp_path: Path
) -> None:
    attempts.environment = environment_here(cwd=str(tmp_path / "gone"))
    assert attempts.value_of(os.getcwd) == str(tmp_path)
    attempts.executor.close()
    text = (tmp_path / "logs" / "engine.1.err").read_text()
    assert "gone cannot be used (No such file or directory): steps run in" in text


# -- interpreters that cannot be used -----------------------------------------------------------


def refusal(attempts: Attempts, python: str, **changed: Any) -> str:
    attempts.environment = environment_here(python=python, **changed)
    made = [attempts.make(lambda: 1) for _ in range(2)]
    reports = attempts.drive(*made)
    [refused] = reports[0]
    assert isinstance(refused, Refused)
    assert refused.environment == attempts.environment
    given_back = [each for one in made for each in reports[one.key]]
    assert set(kinds(given_back)) <= {"GivenBack"}
    assert attempts.executor.wait(0.0) == []
    return refused.reason


def test_an_interpreter_that_is_gone_is_refused(attempts: Attempts, tmp_path: Path) -> None:
    reason = refusal(attempts, str(tmp_path / "python"))
    assert str(tmp_path / "python") in reason
    assert "No such file" in reason
    # A mended one is tried anew.
    attempts.environment = environment_here()
    assert attempts.value_of(lambda: 1) == 1


def test_an_interpreter_that_ends_at_once_is_refused_with_what_it_said(
    attempts: Attempts, tmp_path: Path
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho it will not do >&2\nexit 7\n")
    script.chmod(0o700)
    reason = refusal(attempts, str(script))
    assert "exited with status 7" in reason
    assert "it will not do" in reason


def test_an_interpreter_without_weftline_is_refused(attempts: Attempts) -> None:
    reason = refusal(attempts, sys.executable, sys_path=())
    assert "ModuleNotFoundError" in reason


def test_another_version_of_weftline_is_refused(make: Maker) -> None:
    attempts = make(version="99.0")
    reason = refusal(attempts, sys.executable)
    assert "99.0" in reason
    assert sys.executable in reason


# -- an engine that dies ------------------------------------------------------------------------

ENGINE = """
    import sys
    from pathlib import Path
    from tests.attempts import Attempts, make_children, open_objects
    from tests.e2e.conftest import pass_gate
    from weftline.workers.slots import Slots

    home, gate = Path(sys.argv[1]), sys.argv[2]
    attempts = Attempts(make_children(home, Slots(2), "dead"), open_objects(home))

    def work(path, escapes):
        import os
        import subprocess
        import sys
        if escapes:
            code = "import os, sys; sys.path[:0] = eval(sys.argv[2]);"
            code += "from tests.e2e.conftest import pass_gate;"
            code += "pass_gate(sys.argv[1], 'escaped ' + str(os.getpid()))"
            subprocess.Popen(
                [sys.executable, "-c", code, path, repr(sys.path)], start_new_session=True
            ).wait()
        pass_gate(path, "child " + str(os.getpid()))

    made = [attempts.make(work, gate, escapes) for escapes in (False, True)]
    attempts.drive(*made)
    """


@pytest.fixture
def engine(tmp_path: Path, gate: Gate) -> Iterator["Engine"]:
    made = Engine(tmp_path / "theirs", gate)
    yield made
    made.kill()


class Engine:
    """A process with two busy children, and one that escaped from the group of one of them."""

    def __init__(self, home: Path, gate: Gate) -> None:
        self.home = home
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ENGINE), str(home), gate.path],
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            found = dict(line.split() for line in gate.wait_for(2))
        except BaseException:
            self.kill()
            raise
        self.child, self.escaped = int(found["child"]), int(found["escaped"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def has_ended(process: int) -> bool:
    """Whether the process ends at last, of which this is a descriptor, closed here."""
    try:
        return bool(select.select([process], [], [], 60.0)[0])
    finally:
        os.close(process)


def test_children_die_with_their_engine(engine: Engine) -> None:
    child = os.pidfd_open(engine.child)
    engine.kill()
    assert has_ended(child)
    end_orphans(engine.home, "dead")


def test_orphans_of_a_dead_engine_are_ended(engine: Engine, tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as bystander:
        end_what_is_left(engine, tmp_path / "copy")
        assert bystander.poll() is None
    end_orphans(engine.home, "dead")  # may be repeated


def end_what_is_left(engine: Engine, copy: Path) -> None:
    assert files(engine.home / "engines") == ["dead.child-1", "dead.child-2"]
    child = os.pidfd_open(engine.child)
    engine.kill()
    end_orphans(engine.home, "dea")
    end_orphans(engine.home, "another")
    assert is_alive(engine.escaped)
    # In a copy of the home they are nobody's.
    shutil.copytree(engine.home / "engines", copy / "engines")
    end_orphans(copy, "dead")
    assert is_alive(engine.escaped)
    assert files(copy / "engines") == []
    end_orphans(engine.home, "dead")
    assert not is_alive(engine.escaped)
    assert has_ended(child)  # by itself, perhaps only just
    assert files(engine.home / "engines") == []


def test_a_child_that_outlives_its_engine_is_ended_by_its_lock(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    lock = tmp_path / "engines" / "dead.child-1"
    source = (
        "import fcntl, os, sys; file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);"
        " fcntl.lockf(file, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        end_orphans(tmp_path, "dead")
        assert holder.wait() == -signal.SIGKILL
        assert not lock.exists()


def test_locks_say_which_children_live(attempts: Attempts, gate: Gate, tmp_path: Path) -> None:
    attempt = started(attempts, pass_gate, gate.path)
    gate.wait_for()
    assert files(tmp_path / "engines") == ["engine.child-1"]
    gate.open()
    attempts.wait_for(lambda reports: done(reports, attempt.key))
    attempts.executor.close()
    assert files(tmp_path / "engines") == []


def test_a_failure_in_one_child_changes_nothing_in_another(attempts: Attempts, gate: Gate) -> None:
    waits = started(attempts, pass_gate, gate.path)
    gate.wait_for()
    assert isinstance(attempts.end_of(attempts.make(kill_self)), Lost)

    def fails() -> None:
        raise ValueError

    assert isinstance(attempts.end_of(attempts.make(fails)), Failed)
    gate.open()
    reports = attempts.wait_for(lambda found: done(found, waits.key))
    assert isinstance(reports[-1], Succeeded)
    assert attempts.executor.check(DEFAULT_PLACEMENT) is None
