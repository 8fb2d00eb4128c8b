"""Every byte is read, counted and checked; nothing is allocated for a header that promises too much."""

import bz2
import gzip
import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest

from autoseg3d.errors import ReadError
from autoseg3d.io import read_geometry, read_volume
from autoseg3d.io.payload import head, open_payload

BYTES = random.Random(1).randbytes(40_000) + b"anatomy " * 20_000
PACKED = {"none": BYTES, "gzip": gzip.compress(BYTES), "zlib": zlib.compress(BYTES), "bzip2": bz2.compress(BYTES)}


def _read(path: Path, length: int = len(BYTES), **options: object) -> bytes:
    with open_payload(path, **options) as payload:  # type: ignore[arg-type]
        data = payload.array(length)
        assert payload.finish() == 0
        return data.tobytes()


@pytest.mark.parametrize("compression", list(PACKED))
def test_all_bytes_arrive_after_a_start(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"text header\n" + PACKED[compression])
    assert _read(path, start=12, compression=compression) == BYTES


@pytest.mark.parametrize("compression", ["gzip", "zlib", "bzip2"])
@pytest.mark.parametrize("seed", range(25))
def test_a_cut_file_is_never_read(tmp_path: Path, compression: str, seed: int) -> None:
    packed = PACKED[compression]
    path = tmp_path / "x"
    path.write_bytes(packed[: random.Random(seed).randrange(3, len(packed))])
    with pytest.raises(ReadError) as caught:
        _read(path, compression=compression)
    assert caught.value.code == "E_TRUNCATED"


@pytest.mark.parametrize("compression", ["gzip", "zlib", "bzip2"])
@pytest.mark.parametrize("seed", range(25))
def test_a_flipped_bit_is_found(tmp_path: Path, compression: str, seed: int) -> None:
    packed = bytearray(PACKED[compression])
    packed[random.Random(seed).randrange(20, len(packed))] ^= 1 << seed % 8
    path = tmp_path / "x"
    path.write_bytes(packed)
    with pytest.raises(ReadError) as caught:
        _read(path, compression=compression)
    assert caught.value.code in ("E_CORRUPT", "E_TRUNCATED")


@pytest.mark.parametrize("dropped", range(1, 9))
def test_a_missing_gzip_trailer_is_truncation(tmp_path: Path, dropped: int) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(PACKED["gzip"][:-dropped])
    with pytest.raises(ReadError) as caught:
        _read(path)
    assert caught.value.code == "E_TRUNCATED"


def test_gzip_of_several_members_is_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(b"".join(gzip.compress(BYTES[i : i + 50_000]) for i in range(0, len(BYTES), 50_000)))
    assert _read(path) == BYTES


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_a_promise_beyond_the_file_allocates_nothing(tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(PACKED[compression])
    asked: list[int] = []
    real = np.empty

    def watched(shape: int, **options: object) -> np.ndarray:
        asked.append(shape)
        return real(shape, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("autoseg3d.io.payload.np.empty", watched)
    for length in (len(BYTES) + 1, 10**9, 32767**3 * 8):
        if compression == "zlib" and length < 1032 * len(PACKED["zlib"]):
            continue  # zlib does not state its length
        with pytest.raises(ReadError) as caught, open_payload(path, compression=compression) as payload:  # type: ignore[arg-type]
            payload.array(length)
        assert caught.value.code == "E_TRUNCATED"
    assert asked == []


def test_surplus_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(BYTES))
    with open_payload(path) as payload:
        payload.array(len(BYTES) - 17)
        assert payload.finish() == 17


def test_skipping_beyond_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    with pytest.raises(ReadError) as caught, open_payload(path) as payload:
        payload.skip_to(6)
    assert "wanted 6 bytes; got 5 bytes" in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, code in (("absent", "E_MISSING"), ("loop", "E_PATH"), ("", "E_READ")):
        with pytest.raises(ReadError) as caught:
            head(tmp_path / name, 4)
        assert caught.value.code == code


def test_head_does_not_care_about_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(PACKED["gzip"][:-100])
    assert head(path, 100) == BYTES[:100]


@pytest.mark.parametrize("rubbish", [b"x", b"\n<html>", b"\x1f-2", bytes(100) + b"late", b"m" * 3_000_000])
def test_rubbish_behind_a_whole_gzip_file_is_counted(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(PACKED["gzip"] + rubbish)
    if rubbish.startswith(b"\x1f"):  # may be the beginning of another member
        with pytest.raises(ReadError):
            _read(path)
        return
    with open_payload(path) as payload:
        assert payload.array(len(BYTES)).tobytes() == BYTES
        assert (payload.finish(), payload.rubbish) == (0, len(rubbish.lstrip(b"\0")))


@pytest.mark.parametrize("place", range(1, 9))
def test_rubbish_does_not_hide_a_wrong_checksum(tmp_path: Path, place: int) -> None:
    packed = bytearray(PACKED["gzip"])
    packed[-place] ^= 1
    (tmp_path / "x.gz").write_bytes(bytes(packed) + b"rubbish")
    with pytest.raises(ReadError) as caught:
        _read(tmp_path / "x.gz")
    assert caught.value.code in ("E_CORRUPT", "E_TRUNCATED")  # the last four bytes are the length


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    for read in (read_volume, read_geometry):
        with pytest.raises(ReadError) as caught:
            read(tmp_path / "pipe.nii")
        assert caught.value.code == "E_FORMAT"
