"""`weft run` and `weft runs resume`: drives a run from here, shows it, and tells how it ended."""

import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import FrameType, TracebackType
from typing import Any, Literal

from typer import BadParameter

from weftline.app import App, home
from weftline.authoring.step import to_workflow
from weftline.cli.loading import compose, find_target, new_id, parse_params
from weftline.cli.results import error_document, is_json, load_result
from weftline.cli.runs import record_of
from weftline.cli.terminal import (
    command,
    count,
    duration,
    is_terminal,
    one_line,
    plain,
    say,
    say_error,
    say_json,
    say_note,
    say_warning,
    value_text,
)
from weftline.cli.tree import Tree
from weftline.cli.view import View, new_view
from weftline.core.events import GraphExtended, RunStatus, RunSubmitted
from weftline.core.graph import Graph, decode_pages
from weftline.core.values import Error
from weftline.driving.drive import Drive
from weftline.engine.active import Committed, Ended, Gone, Output, Stalled
from weftline.errors import WeftlineError, WorkflowNotFoundError

LOOK_S = 0.1
"""Seconds after which a signal is acted on at the latest."""

SHOWN_CHARACTERS = 2000
"""So much of a result is shown at the end of a run; `weft runs output` shows all of it."""


def run_file(
    file: str, *, run_id: str | None, params: Sequence[str], quiet: bool, as_json: bool
) -> int:
    """Run what the file has, or let the run of this id go on; the exit status."""
    given = parse_params(params)
    if run_id is not None and not run_id:
        raise BadParameter("--id must not be empty")
    with _only_result_on_stdout(as_json):
        target = find_target(file)
        composition = compose(target, given)
    app = home()
    record = None if run_id is None else app.journal.find_run(run_id)
    run_id = run_id or new_id(target)
    with _warnings_told():
        metadata = {"params": given} if given else {}
        written, objects, warned = to_workflow(composition, app.objects, metadata)
    for text in warned:
        say_warning(text)
    view = new_view(quiet=quiet, stdout_is_result=as_json)
    if record is None:
        if not quiet:
            _say_beginning(run_id, target.title)
        drive = app.attached.start(
            written,
            run_id=run_id,
            objects=objects,
            warned=warned,
            follow=not quiet,
            quiet=quiet,
        )
        return _Driving(
            app, drive, view, quiet=quiet, as_json=as_json, graph=written.graph
        ).see_through()
    _warn_of_params(run_id, record.creation.metadata.get("params", {}), given)
    with _warnings_told():
        found = app.attached.proceed(run_id, written=written, follow=not quiet, quiet=quiet)
    return _go_on(app, run_id, found, view, quiet=quiet, as_json=as_json)


def resume_run(run_id: str, *, quiet: bool, as_json: bool) -> int:
    """Let the run go on from here; the exit status."""
    app = home()
    record_of(app, run_id)
    view = new_view(quiet=quiet, stdout_is_result=as_json)
    with _warnings_told():
        found = app.attached.proceed(run_id, follow=not quiet, quiet=quiet)
    return _go_on(app, run_id, found, view, quiet=quiet, as_json=as_json)


def _go_on(
    app: App, run_id: str, found: Drive | Ended, view: View, *, quiet: bool, as_json: bool
) -> int:
    if isinstance(found, Ended):
        if not quiet:
            say_note(f"run {run_id!r} has ended before; nothing runs, this is its recorded result")
        return _tell_ending(app, run_id, found, quiet=quiet, as_json=as_json, took_s=None)
    driving = _Driving(app, found, view, quiet=quiet, as_json=as_json, graph=None)
    return driving.see_through()


def _say_beginning(run_id: str, title: str) -> None:
    say("run ", (plain(run_id), "bold"), f": {plain(title)}", to=sys.stderr)
    hint = command("weft", "runs", "resume", run_id)
    say((f"  whatever interrupts it, it goes on with: {hint}", "dim"), to=sys.stderr)


@contextmanager
def _only_result_on_stdout(is_asked: bool) -> Iterator[None]:
    """What the user's code prints in this process goes to stderr, if that is asked."""
    with redirect_stdout(sys.stderr) if is_asked else nullcontext():
        yield


@contextmanager
def _warnings_told() -> Iterator[None]:
    """What is warned of meanwhile, as one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                say_warning(text)


def _warn_of_params(run_id: str, recorded: Any, given: dict[str, Any]) -> None:
    if not isinstance(recorded, dict) or recorded == given:
        return
    changes = []
    for name in dict.fromkeys([*recorded, *given]):
        if name not in given:
            changes.append(f"{name}={_short(recorded[name])} is not given now")
        elif name not in recorded:
            changes.append(f"{name}={_short(given[name])} was not given then")
        elif recorded[name] != given[name]:
            changes.append(f"{name} was {_short(recorded[name])} and is {_short(given[name])}")
    say_warning(
        f"run {run_id!r} goes on with the --param it was started with: {'; '.join(changes)}"
    )


def _short(value: Any) -> str:
    return one_line(repr(value), 60)


# -- driving ------------------------------------------------------------------------------------


class _Signals:
    """Notes what asks this process to stop, so that it can end in an orderly way.

    While `raising`, each one raises KeyboardInterrupt as well: where this process waits for a
    person, or carries out steps itself.
    """

    def __init__(self) -> None:
        self.raising = False
        self._noted: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # One that is ignored stays so: a shell asks that for what runs in the background.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)
        if self.raising:
            raise KeyboardInterrupt

    def take(self) -> int | None:
        """The weightiest signal noted since the last call."""
        noted, self._noted = self._noted, []
        return max(noted, key=lambda number: number != signal.SIGINT, default=None)


class _Driving:
    """A run that is driven from here, with what is shown of it."""

    def __init__(
        self,
        app: App,
        drive: Drive,
        view: View,
        *,
        quiet: bool,
        as_json: bool,
        graph: Graph | None,
    ) -> None:
        self._app, self._drive, self._view = app, drive, view
        self._quiet, self._as_json = quiet, as_json
        self._graph = graph  # of a new run; None: the run is read back
        self._tree: Tree | None = None
        self._runs_here = app.settings.executor == "inline"
        self._is_canceling = False
        self._began_at = time.monotonic()
        self._warned_of: float | None = None

    @property
    def _run_id(self) -> str:
        return self._drive.run_id

    def see_through(self) -> int:
        """Drive the run to its end, or until somebody stops it; the exit status."""
        # What the engine logs is told by the view; with a handler of its own it is not lost.
        logging.getLogger("weftline").addHandler(logging.NullHandler())
        try:
            with _Signals() as signals, _only_result_on_stdout(self._as_json):
                ended = self._follow(signals)
                self._view.end()
        except WeftlineError:
            self._view.pause()
            raise
        except BaseException:  # such as nobody reading stdout any more
            self._drive.let_go()
            self._view.pause()
            self._say_left()
            raise
        finally:
            self._drive.close()
        if isinstance(ended, Ended):
            took_s = time.monotonic() - self._began_at
            return _tell_ending(
                self._app,
                self._run_id,
                ended,
                quiet=self._quiet,
                as_json=self._as_json,
                took_s=took_s,
            )
        return self._tell_leaving(ended)

    def _follow(self, signals: _Signals) -> Ended | int:
        """The run's end, or the number of the signal that stopped it."""
        while True:
            try:
                signals.raising = self._runs_here
                news = self._drive.news(min(self._view.patience_s(), LOOK_S))
            except KeyboardInterrupt:
                news = None
            finally:
                signals.raising = False
            stopped_by = signals.take()
            match news:
                case Ended():
                    return news
                case Gone(error=error):
                    raise error
                case Output():
                    self._view.print(news)
                case Committed(events=events):
                    self._take(events)
                case Stalled(since=since, error=error):
                    if self._warned_of != since:
                        self._warned_of = since
                        self._view.warn(f"nothing can be written, trying again: {error}")
            if stopped_by is not None and not self._is_to_go_on(stopped_by, signals):
                return self._leave(signals.take() or stopped_by)
            self._view.refresh()

    def _take(self, events: list[tuple[float, Any]]) -> None:
        if self._tree is None and self._graph is None:
            self._tree = Tree.of(self._app.records.read(self._run_id).run)
            self._tree.begin_times()
            self._view.begin(self._tree)
            if self._tree.ended:
                tree, run_id = self._tree, self._run_id
                done = f"{tree.ended:,} of {count(tree.total, 'step')} have ended before"
                say("run ", (plain(run_id), "bold"), f" goes on: {done}", to=sys.stderr)
            return
        if self._tree is None:
            self._tree = Tree()
            self._view.begin(self._tree)
        for at, event in events:
            graph = None
            if isinstance(event, RunSubmitted):
                graph = self._graph
            elif isinstance(event, GraphExtended):
                steps = decode_pages(self._app.journal.read_graph(event.graph))
                graph = Graph(steps=steps, output=event.output)
            self._tree.apply(at, event, graph)
            self._view.note(event, at)

    # -- being stopped ----------------------------------------------------------------------

    def _is_to_go_on(self, stopped_by: int, signals: _Signals) -> bool:
        """Whether the run goes on for the moment after the signal: to be canceled."""
        can_ask = is_terminal(sys.stdin) and is_terminal(sys.stderr)
        if stopped_by != signal.SIGINT or self._is_canceling or not can_ask or self._runs_here:
            return False
        self._view.pause()
        if self._ask(signals) == "leave":
            return False
        self._is_canceling = True
        self._drive.cancel()
        return True

    def _ask(self, signals: _Signals) -> Literal["cancel", "leave"]:
        question = f"\nCancel run {self._run_id!r}, or leave it to be resumed later? [c/L] "
        signals.raising = True
        try:
            while True:
                sys.stderr.write(plain(question))
                sys.stderr.flush()
                answer = sys.stdin.readline()
                if not answer:
                    sys.stderr.write("\n")
                    return "leave"
                match answer.strip().lower():
                    case "c" | "cancel":
                        return "cancel"
                    case "" | "l" | "leave":
                        return "leave"
                question = "Please answer c (cancel) or l (leave it, so that it can be resumed): "
        except KeyboardInterrupt:
            sys.stderr.write("\n")
            return "leave"
        finally:
            signals.raising = False

    def _leave(self, stopped_by: int) -> Ended | int:
        """Let the run go; its end, if it was quicker."""
        self._drive.let_go()
        try:
            recorded = self._app.records.read(self._run_id)
        except WorkflowNotFoundError:
            return stopped_by
        run = recorded.run
        if self._tree is not None:
            tree = Tree.of(run)
            tree.stop(owners=True)
            tree.begin_times()
            self._view.begin(tree)
        if run.is_open:
            return stopped_by
        step = None if run.failed_step is None else run.steps[run.failed_step].name
        return Ended(run.status, run.value, run.error, step, run.held)

    def _tell_leaving(self, stopped_by: int) -> int:
        self._say_left()
        if self._as_json:
            say_json({"id": self._run_id, "status": RunStatus.RESUMABLE.value})
        return 128 + stopped_by

    def _say_left(self) -> None:
        run_id = self._run_id
        record = self._app.journal.find_run(run_id)
        if record is None:
            say_note(f"run {run_id!r} was stopped before anything of it was recorded")
            return
        status = self._app.owners.status_of(record)
        if status is RunStatus.RESUMABLE:
            text, verb = "was left RESUMABLE; it goes on with", "resume"
        else:
            text, verb = f"is {status}; look at it with", "show"
        hint = command("weft", "runs", verb, run_id)
        say(f"run {plain(run_id)} {text}: ", (hint, "bold"), to=sys.stderr)


# -- how it ended -------------------------------------------------------------------------------


def _tell_ending(
    app: App, run_id: str, ended: Ended, *, quiet: bool, as_json: bool, took_s: float | None
) -> int:
    """Show the run's end; the exit status."""
    match ended.status:
        case RunStatus.SUCCESSFUL:
            return _tell_result(app, run_id, quiet=quiet, as_json=as_json, took_s=took_s)
        case RunStatus.CANCELED:
            say(
                f"run {plain(run_id)} was canceled; to let it go on all the same: ",
                (command("weft", "runs", "resume", run_id), "bold"),
                to=sys.stderr,
            )
            if as_json:
                say_json({"id": run_id, "status": ended.status.value})
            return 128 + signal.SIGINT
    if as_json:
        say_json(
            {
                "id": run_id,
                "status": ended.status.value,
                "step": ended.step,
                "error": error_document(ended.error),
                "reason": ended.reason,
            }
        )
    if ended.error is None:
        say_error(f"run {run_id!r} is held back: {ended.reason}")
    else:
        _tell_failure(run_id, ended.step, ended.error)
    say(
        ("What has finished is kept. Once the cause is mended, it goes on with: ", "dim"),
        command("weft", "runs", "resume", run_id),
        to=sys.stderr,
    )
    say(
        ("Code is kept as well: to run changed code, start a run of another id.", "dim"),
        to=sys.stderr,
    )
    return 1


def _tell_failure(run_id: str, step: str | None, error: Error) -> None:
    name = error.type.removeprefix("builtins.")
    text = one_line(error.text, 1000)
    say_error(f"run {run_id!r} failed in step {step!r}: {name}{': ' if text else ''}{text}")
    if error.traceback.strip():
        for line in plain(error.traceback).rstrip().splitlines():
            say(("  " + line, "dim"), to=sys.stderr)


def _tell_result(app: App, run_id: str, *, quiet: bool, as_json: bool, took_s: float | None) -> int:
    loaded = load_result(app, run_id)
    summary = app.records.get_run(run_id).summary
    if loaded.problem is not None:
        say_warning(f"the result cannot be loaded here: {loaded.problem}")
    if as_json:
        document: dict[str, Any] = {"id": run_id, "status": summary.status.value}
        if loaded.problem is None and is_json(loaded.value):
            document["result"] = loaded.value
        else:
            document["preview"] = loaded.preview or value_text(loaded.value, limit=SHOWN_CHARACTERS)
        document |= {"steps": summary.steps, "took_s": None if took_s is None else round(took_s, 3)}
        say_json(document)
        return 0
    if took_s is not None and not quiet:
        steps = count(summary.steps, "step")
        say(
            ("run ", ""),
            (plain(run_id), "bold"),
            (" SUCCESSFUL", "green"),
            f" in {duration(took_s)}, {steps}",
            to=sys.stderr,
        )
    if loaded.problem is not None:
        say(plain(loaded.preview or ""))
    else:
        text = value_text(loaded.value, limit=SHOWN_CHARACTERS)
        say(text)
    if quiet:
        return 0
    hints = (("show", "its steps and their times"), ("output", "its whole result"))
    for word, what in hints:
        hint = command("weft", "runs", word, run_id)
        space = " " * (max(len(other) for other, _ in hints) - len(word) + 3)
        say(f"  {hint}{space}", (what, "dim"), to=sys.stderr)
    return 0
