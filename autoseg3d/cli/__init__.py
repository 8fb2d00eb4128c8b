"""The command line: each command parses its options, calls one function of autoseg3d.api, and shows what came back."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import typer

from autoseg3d import __version__
from autoseg3d.cli import cache, data, demo, inference, judging, model, reports, training, trust

app = typer.Typer(
    name="autoseg3d",
    help="Self-configuring 3D medical image segmentation: plan, train, predict.\n\n"
    "A first case in four commands:\n\n"
    "  autoseg3d plan RAW --run RUN\n\n"
    "  autoseg3d train RUN --fold all\n\n"
    "  autoseg3d predict SCANS --model RUN --out OUT\n\n"
    "  autoseg3d evaluate OUT REFERENCE --out SCORES",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True)) -> None:
    if version:
        typer.echo(f"autoseg3d {__version__}")
        raise typer.Exit


data.register(app)
cache.register(app)
training.register(app)
inference.register(app)
judging.register(app)
model.register(app)
reports.register(app)
demo.register(app)
trust.register(app)


def program() -> None:
    """`main` as a whole process, which ends at once where a thread that was left to itself still computes.

    A thread that comes back from torch while the interpreter is taken apart aborts the process, whatever its exit code was to be:
    so it went on Ctrl-C in the middle of a scan, and would where a scan ran out of time.
    """
    try:
        main()
    except SystemExit as left:
        others = (thread for thread in threading.enumerate() if thread.daemon and thread is not threading.current_thread())
        if not any(others) or not isinstance(left.code, int):
            raise
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody may be listening any more
                stream.flush()
        os._exit(left.code)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line and leaves with its exit code: see the table in autoseg3d/errors.py."""
    from autoseg3d.errors import Autoseg3dError, InterruptedByUserError

    _share_processors()
    try:
        with _signals_stop():
            app(args=arguments)
    except Autoseg3dError as error:
        typer.secho(str(error), err=True, fg="red")
        sys.exit(error.exit_code)
    except _SignalledError as error:
        stopped = InterruptedByUserError(f"stopped by {error}", remedy="What is finished stays; run the same command again to go on")
        typer.secho(str(stopped), err=True, fg="red")
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        typer.secho("Stopped.", err=True)
        sys.exit(130)


class _SignalledError(BaseException):
    """A signal asked the program to end. No Exception, so that nobody takes it for the fault of a case."""


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, temporary files removed; training sees to them by itself.

    One that is ignored already, as under nohup, stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise _SignalledError(signal.Signals(number).name)

    numbers = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _share_processors() -> None:
    """Lets idle threads of the network spin briefly, then sleep, before torch starts them; a user's own setting stands.

    OpenMP's threads wait for each other after every layer. Where another program holds one of the processors, spinning
    ones take the time that the late one needs: a training step was measured up to 60 times slower on a busy machine. Sleeping
    at once costs a quiet machine a fifth to a quarter of a narrow network's step. GNU's OpenMP spins for a number of turns,
    300,000 where nobody tells it; with 10,000, half a millisecond, a step is as fast as either is on its own ground
    (docs/benchmarks.md). The other runtimes know no such number and sleep. They all read this when they are loaded and have
    no other way to be told.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


__all__ = ["app", "main", "program"]
