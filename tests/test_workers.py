"""Cases in several processes: order, errors as values, killed and stuck workers, early ends."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from autoseg3d.errors import ReadError, StoppedError
from autoseg3d.workers import map_cases, worker_count


@dataclass(frozen=True)
class Job:
    id: str
    number: int = 0


class UnportableError(Exception):
    """An exception that cannot be rebuilt from its arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def square(number: int) -> int:
    return number * number


def scaled(factor: int, number: int) -> int:
    return factor * number


def pid(_: int) -> int:
    return os.getpid()


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ReadError("cut short", case="c3", code="E_TRUNCATED", wanted=10, got=7)
    if number == 4:
        raise ZeroDivisionError("by hand")
    if number == 5:
        raise UnportableError("odd", "ball")
    return number


def kill_itself(job: Job) -> str:
    if job.number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.id


def kill_itself_once(folder: str, name: str) -> str:
    mark = Path(folder) / name
    if name == "weak" and not mark.exists():
        mark.touch()
        os._exit(7)
    return name


def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def noisy(number: int) -> int:
    sys.stdout.write("a library that prints\n")
    sys.stdout.flush()
    os.write(1, b"and one that writes to the descriptor\n")
    return number + len(sys.stdin.read() if sys.stdin else "")


def thread_limit(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def big(number: int) -> np.ndarray:
    return np.full((300, 1000), number, dtype=np.float32)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_item_comes_back_once_with_its_index(workers: int) -> None:
    outcomes = list(map_cases(square, range(10, 17), workers=workers, what="squares"))
    assert {outcome.index: outcome.result() for outcome in outcomes} == {i: (10 + i) ** 2 for i in range(7)}


def test_one_worker_stays_in_this_process_and_two_do_not() -> None:
    assert {o.result() for o in map_cases(pid, range(3), workers=1, what="")} == {os.getpid()}
    others = {o.result() for o in map_cases(pid, range(6), workers=2, what="")}
    assert os.getpid() not in others
    assert 1 <= len(others) <= 2


def test_partials_and_large_results_cross_the_process_border() -> None:
    values = [o.result() for o in map_cases(functools.partial(scaled, 3), range(4), workers=2, what="")]
    assert sorted(values) == [0, 3, 6, 9]
    for outcome in map_cases(big, range(3), workers=2, what=""):
        assert outcome.result().shape == (300, 1000)
        assert (outcome.result() == outcome.index).all()


def test_the_number_of_workers_is_the_wish_or_one_per_processor() -> None:
    assert worker_count(7) == 7
    assert 1 <= worker_count() <= (os.cpu_count() or 1)


def test_no_items_start_nothing() -> None:
    assert list(map_cases(square, [], workers=4, what="")) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_are_values_and_the_rest_goes_on(workers: int) -> None:
    outcomes = {o.index: o for o in map_cases(fail_on_three, range(7), workers=workers, what="")}
    assert [outcomes[i].value for i in (0, 1, 2, 6)] == [0, 1, 2, 6]
    error = outcomes[3].error
    assert isinstance(error, ReadError)
    assert (error.code, error.case, error.wanted, error.got) == ("E_TRUNCATED", "c3", 10, 7)
    assert isinstance(outcomes[4].error, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        outcomes[4].result()
    assert "oddball" in str(outcomes[5].error)


def test_unexpected_errors_carry_the_traceback_of_the_worker() -> None:
    errors = {o.index: o.error for o in map_cases(fail_on_three, range(6), workers=2, what="")}
    assert "fail_on_three" in errors[4].__notes__[0]
    assert "fail_on_three" in errors[5].__notes__[0]
    assert not hasattr(errors[3], "__notes__")


def test_something_that_cannot_cross_the_border_is_an_error_of_its_case() -> None:
    outcomes = list(map_cases(lambda x: x, [1, 2], workers=2, what=""))
    assert [type(o.error).__name__ for o in outcomes] != ["NoneType", "NoneType"]
    assert all(o.error is not None for o in outcomes)


def test_a_killed_worker_costs_one_case_which_is_named() -> None:
    jobs = [Job("a"), Job("b"), Job("huge", -1), Job("c"), Job("d")]
    outcomes = {o.index: o for o in map_cases(kill_itself, jobs, workers=2, what="")}
    assert [outcomes[i].value for i in (0, 1, 3, 4)] == ["a", "b", "c", "d"]
    error = outcomes[2].error
    assert isinstance(error, StoppedError)
    assert (error.code, error.case) == ("E_WORKER_KILLED", "huge")
    assert "SIGKILL" in str(error)
    assert re.search(r"peak memory at most \d+\.\d\d GiB", str(error))


def test_a_worker_that_dies_once_is_tried_again_alone_at_the_end(tmp_path: Path) -> None:
    names = ["weak", "a", "b", "c"]
    outcomes = list(map_cases(functools.partial(kill_itself_once, str(tmp_path)), names, workers=2, what=""))
    assert sorted(o.result() for o in outcomes) == sorted(names)
    assert outcomes[-1].value == "weak"


def test_a_stuck_case_is_stopped_when_a_time_is_set() -> None:
    began = time.monotonic()
    outcomes = {o.index: o for o in map_cases(sleep_for, [60.0, 0.0, 0.0], workers=2, what="", timeout_seconds=1.5)}
    assert time.monotonic() - began < 10
    assert outcomes[0].error.code == "E_TIMEOUT"
    assert [outcomes[1].value, outcomes[2].value] == [0.0, 0.0]


def test_what_libraries_print_does_not_disturb_the_results() -> None:
    assert sorted(o.result() for o in map_cases(noisy, range(3), workers=2, what="")) == [0, 1, 2]


def test_threads_of_workers_are_limited() -> None:
    assert {o.result() for o in map_cases(thread_limit, range(2), workers=2, what="", threads_per_worker=3)} == {"3"}


def test_progress_is_told_from_nothing_to_all() -> None:
    seen: list[tuple[str, int, int]] = []
    list(map_cases(square, range(3), workers=1, what="squaring", progress=lambda *call: seen.append(call)))
    assert seen == [("squaring", 0, 3), ("squaring", 1, 3), ("squaring", 2, 3), ("squaring", 3, 3)]


def test_leaving_the_loop_early_ends_the_workers() -> None:
    loop = map_cases(sleep_for, [0.0, 0.0, 60.0, 60.0, 60.0], workers=2, what="")
    next(loop)
    began = time.monotonic()
    loop.close()
    assert time.monotonic() - began < 5


SCRIPT = """
import sys
from autoseg3d.workers import map_cases, worker_count
from test_workers import sleep_for, square
print(sorted(o.result() for o in map_cases(square, range(4), workers=2, what="")), flush=True)
for _ in map_cases(sleep_for, [60.0] * 4, workers=2, what=""):
    pass
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_script_without_a_main_guard_works_and_its_workers_end_with_it(tmp_path: Path, repository_root: Path, how: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(repository_root), str(repository_root / "tests")])
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"[0, 1, 4, 9]\n"
    time.sleep(0.5)
    process.send_signal(how)
    _, err = process.communicate(timeout=10)
    assert process.returncode != 0
    assert (b"KeyboardInterrupt" in err) == (how == signal.SIGINT)
