"""The command `weft`: what can be asked of it, and where each error ends.

Only Typer is imported before it is known what is wanted, so that `weft --help` answers at once.
"""

import os
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from weftline.version import __version__

app = typer.Typer(
    name="weft",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
)
runs = typer.Typer(no_args_is_help=False)
app.add_typer(runs, name="runs")

RunIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of runs.", show_default=False)
]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show only the result: no steps, nothing they print.")
]


def main(arguments: list[str] | None = None) -> None:
    """The entry point: carries out the command and ends the process with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in given
    _make_streams_robust()
    try:
        # It may stand anywhere: who has just seen an error puts it at the end of the line.
        words = [one for one in given if one != "--debug"]
        status = app(words, prog_name="weft", standalone_mode=False)
        sys.stdout.flush()
        code = status if isinstance(status, int) else 0
    except BaseException as error:
        if is_debug and not isinstance(error, SystemExit):
            raise
        code = _status_of(error)
    sys.exit(code)


def _status_of(error: BaseException) -> int:
    """Tell of the error in one message; the exit status."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # Typer makes an end of its own of it
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        # Nobody reads on. What Python would still flush at its end goes nowhere.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        sys.stderr.write("\n")
        return 130
    from weftline.cli.terminal import say_error
    from weftline.errors import WeftlineError

    if isinstance(error, typer.BadParameter) and error.param is None and error.message:
        say_error(error.message)
        return 2
    told = getattr(error, "format_message", None)
    if told is not None:  # Typer's own
        say_error(_in_our_words(told()))
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, WeftlineError):
        say_error(str(error))
    else:
        text = str(error)
        say_error(f"{type(error).__name__}{': ' if text else ''}{text} (--debug shows where)")
    return 1


def _in_our_words(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].lower() + text[1:].removesuffix(".")


def _make_streams_robust() -> None:
    """No character that a stream cannot write shall end the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


@app.callback(invoke_without_command=True)
def weft(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Run machine-learning workflows that lose nothing, and look at their runs."""
    if version:
        sys.stdout.write(f"weft {__version__}\n")
        raise typer.Exit
    _help_without_command(context)


@runs.callback(invoke_without_command=True)
def runs_alone(context: typer.Context) -> None:
    """List, show, steer and delete runs."""
    _help_without_command(context)


def _help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        with redirect_stdout(sys.stderr):  # Typer may print it itself
            sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


@app.command("run")
def run(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE[:NAME]",
            help="A Python file, and the composition in it, or the function that returns one."
            " Without NAME: main, else workflow, else the only composition or step.",
            show_default=False,
        ),
    ],
    run_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="The run's id. One that was used before goes on where it stopped.",
            show_default=False,
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            metavar="NAME=VALUE",
            help="An argument of the function: JSON, or else text. May be repeated.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Run a workflow from here, and watch it.

    Ctrl-C asks whether to cancel the run or to leave it, so that it can be resumed.
    """
    from weftline.cli.run import run_file

    return run_file(file, run_id=run_id, params=param or [], quiet=quiet, as_json=as_json)


@app.command("status")
def status(
    all_runs: Annotated[
        bool, typer.Option("--all", help="All unfinished runs, not only the 20 newest.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show who is alive, what is unfinished, and what it waits for."""
    from weftline.cli.status import show_status

    return show_status(all_runs=all_runs, as_json=as_json)


@app.command("doctor")
def doctor(
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Check every run, and the content of every object: may take long."
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Check that everything in the home is sound; changes nothing.

    The exit status is 1 when something is bad.
    """
    from weftline.cli.doctor import check_home

    return check_home(full=full, as_json=as_json)


@app.command("gc")
def gc(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Also delete runs that ended longer ago than this, such as 7d or 12h.",
            show_default=False,
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="Delete only SUCCESSFUL, FAILED or CANCELED runs. May be repeated.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be removed.")
    ] = False,
    vacuum: Annotated[
        bool,
        typer.Option("--vacuum", help="Write the database anew, to give back what is free in it."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Remove what nobody needs any more: objects, graphs, logs, and what dead processes left.

    Runs may go on meanwhile. Objects go into a trash first, and for good a day later.
    """
    from weftline.cli.gc import tidy_home

    return tidy_home(
        older_than=older_than,
        statuses=status or [],
        dry_run=dry_run,
        vacuum=vacuum,
        yes=yes,
        as_json=as_json,
    )


@app.command("controller")
def controller(
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle",
            metavar="SECONDS",
            min=0,
            help="End when there was nothing to do for so long: no unfinished run that goes on by"
            " itself, also not one that sleeps.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Drive the runs of the home that belong to no program, from this terminal.

    A home has one controller. Without this command one is started when it is needed.

    It goes on with what earlier ones have left.
    """
    from weftline.cli.controller import serve

    return serve(until_idle_s=until_idle)


@runs.command("list")
def list_(
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only runs of this status. May be repeated.", show_default=False),
    ] = None,
    workflow: Annotated[
        str | None, typer.Option(help="Only runs of this workflow.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="So many at most; 0: all.")] = 50,
    as_json: AsJson = False,
) -> int:
    """List runs, newest first."""
    from weftline.cli.runs import list_runs

    return list_runs(statuses=status or [], workflow=workflow, limit=limit, as_json=as_json)


@runs.command("show")
def show(
    run_id: RunId,
    step: Annotated[
        str | None,
        typer.Argument(metavar="[STEP]", help="Only this step, in detail.", show_default=False),
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show when each step ran, instead of the graph.")
    ] = False,
    picture: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write the picture of the step's value, a PNG.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show a run and its graph, or one step of it.

    With --timeline and --json: a list of what took place, in the order of the beginnings.
    """
    if step is not None:
        if timeline:
            raise typer.BadParameter("--timeline is of a whole run: leave out the STEP")
        from weftline.cli.steps import show_step

        return show_step(run_id, step, picture=picture, as_json=as_json)
    if picture is not None:
        raise typer.BadParameter("--picture is of one step: name the STEP")
    from weftline.cli.runs import show_run, show_timeline

    return (show_timeline if timeline else show_run)(run_id, as_json=as_json)


@runs.command("output")
def output(
    run_id: RunId,
    step: Annotated[
        str | None, typer.Option(help="The value of this step.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Print the result of a run, or the value of one of its steps."""
    from weftline.cli.runs import print_output

    return print_output(run_id, step=step, as_json=as_json)


@runs.command("logs")
def logs(
    run_id: RunId,
    step: Annotated[
        list[str] | None,
        typer.Option(help="Only of this step. May be repeated.", show_default=False),
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Only of this try of it.", show_default=False)
    ] = None,
    stream: Annotated[
        str | None, typer.Option(metavar="out|err", help="Only this stream.", show_default=False)
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Print lines as they come, too, until the run goes on no more."
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Print what the steps of a run printed.

    A line of stdout comes as "step | line", one of stderr as "step ! line".

    With --follow and --json each line is a JSON document on a line of its own.
    """
    from weftline.cli.logs import print_logs

    return print_logs(
        run_id, steps=step or [], attempt=attempt, stream=stream, follow=follow, as_json=as_json
    )


@runs.command("resume")
def resume(run_id: RunId, quiet: Quiet = False, as_json: AsJson = False) -> int:
    """Let a run go on from here that was interrupted, failed, or was canceled."""
    from weftline.cli.run import resume_run

    return resume_run(run_id, quiet=quiet, as_json=as_json)


@runs.command("cancel")
def cancel(run_ids: RunIds, as_json: AsJson = False) -> int:
    """End runs: what runs of them is killed, and no further step starts."""
    from weftline.cli.steering import cancel_runs

    return cancel_runs(run_ids, as_json=as_json)


@runs.command("pause")
def pause(run_ids: RunIds, as_json: AsJson = False) -> int:
    """Let no further step of these runs start; what runs is not disturbed."""
    from weftline.cli.steering import pause_runs

    return pause_runs(run_ids, as_json=as_json)


@runs.command("continue")
def continue_(run_ids: RunIds, as_json: AsJson = False) -> int:
    """Let steps of paused runs start again."""
    from weftline.cli.steering import continue_runs

    return continue_runs(run_ids, as_json=as_json)


@runs.command("signal")
def signal(
    run_id: RunId,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the signal.", show_default=False)
    ],
    json_payload: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="What comes with it, as JSON.", show_default=False),
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What comes with it, as text.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Of several with the same key only the first counts.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Send a signal to a run, for the step that waits for one of this name, now or later."""
    from weftline.cli.steering import send_signal

    return send_signal(
        run_id, name, json_payload=json_payload, text=payload, key=key, as_json=as_json
    )


@runs.command("delete")
def delete(
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Forget a run and everything recorded of it."""
    from weftline.cli.runs import delete_run

    return delete_run(run_id, yes=yes, as_json=as_json)


if __name__ == "__main__":
    main()
