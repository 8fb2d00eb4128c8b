"""Files appear whole or not at all; locks keep processes apart and never go stale."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autoseg3d import files
from autoseg3d.errors import LockedError, ReadError, StorageError


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "plan.json"
    files.write_text(target, "old")

    def write_half() -> None:
        with files.writing(target) as file:
            file.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["plan.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state.bin"
    files.write_bytes(target, b"old")
    code = f"""
        import os, signal
        from autoseg3d import files
        with files.writing({str(target)!r}) as file:
            file.write(b"new" * 10**6)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode != 0
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "big.bin"
    files.write_bytes(target, b"old")
    code = f"""
        import resource, signal
        from autoseg3d import files
        from autoseg3d.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            files.write_bytes({str(target)!r}, b"x" * 10000)
        except StorageError as error:
            print(error.code, error.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["E_DISK_FULL", "4"]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_in_place_of_the_target_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises((StorageError, OSError)):
        files.write_text(tmp_path / "target", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"a": NaN}', "NaN"),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_bad_json_is_refused_with_the_reason(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ReadError, match=hint) as caught:
        files.read_json(path)
    assert caught.value.code == "E_JSON"
    assert str(path) in str(caught.value)


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert files.read_json(path) == {"a": 1}


def test_missing_json_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReadError) as caught:
        files.read_json(tmp_path / "none.json")
    assert caught.value.code == "E_MISSING"


def test_a_lock_held_by_another_process_is_named_and_ends_with_it(tmp_path: Path) -> None:
    code = f"""
        import sys
        from autoseg3d import files
        with files.lock({str(tmp_path)!r}):
            print("held", flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(LockedError, match=str(holder.pid)), files.lock(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with files.lock(tmp_path):
        pass


def test_two_writers_under_a_lock_lose_nothing(tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        from autoseg3d import files
        counter = Path({str(tmp_path / "count")!r})
        for _ in range(50):
            with files.lock({str(tmp_path)!r}, wait_seconds=60):
                files.write_text(counter, str(int(counter.read_text()) + 1))
    """
    files.write_text(tmp_path / "count", "0")
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "150"
