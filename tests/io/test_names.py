"""Case ids are safe to write to; endings and channel numbers are recognised; clutter is told from data."""

from pathlib import Path

import pytest

from autoseg3d.io.names import check_case_id, clashes, is_clutter, listing, safe_id, split_channel, split_ending


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.nii.gz", ("a", ".nii.gz")),
        ("A.B.NII.GZ", ("A.B", ".nii.gz")),
        ("a.nii", ("a", ".nii")),
        ("scan.MHA", ("scan", ".mha")),
        ("x.hdr", ("x", ".hdr")),
        ("notes.txt", ("notes.txt", "")),
        (".nii.gz", (".nii.gz", "")),
    ],
)
def test_endings(name: str, parts: tuple[str, str]) -> None:
    assert split_ending(name) == parts


def test_channel_numbers_have_four_digits() -> None:
    assert split_channel("case_0001") == ("case", 1)
    assert split_channel("case_12_0000") == ("case_12", 0)
    assert split_channel("case_001") == ("case_001", None)
    assert split_channel("_0001") == ("_0001", None)


@pytest.mark.parametrize("case", ["a", "Case-1.2_x", "-rf", "x" * 100, "CON1", "patient001_frame01"])
def test_good_ids(case: str) -> None:
    assert check_case_id(case) is None


@pytest.mark.parametrize(
    "case", ["", ".", "..", ".hidden", "../../../evil", "/etc/x", "C:\\x", "$HOME", "a b", "a\n", "é", "x" * 101, "a/b"]
)
def test_bad_ids(case: str) -> None:
    fault = check_case_id(case)
    assert fault is not None
    assert fault.code == "E_CASE_ID"


@pytest.mark.parametrize(
    "stem", ["scan 1", "Müller, Hans", "患者一", "a\nb", "'; rm -rf /", "..", "x" * 300, "-rf", "$HOME", "%PATH%", "é", "\udcff", "a/b"]
)
def test_any_name_becomes_a_safe_id(stem: str) -> None:
    case = safe_id(stem)
    assert check_case_id(case) is None
    assert case == safe_id(stem)


def test_safe_ids_keep_good_names_and_keep_others_apart() -> None:
    assert safe_id("patient001_frame01") == "patient001_frame01"
    assert safe_id("scan 1") == "scan_1"
    assert safe_id("Müller").startswith("Muller-")
    names = ["患者一", "患者二", "Müller", "Muller", "Mu\u0308ller", "x" * 200, "x" * 201]
    assert len({safe_id(name) for name in names}) == len(names)


def test_clashes_name_all_files() -> None:
    faults = clashes([("a", Path("x/a.nii")), ("A", Path("x/A.nii.gz")), ("b", Path("b.nii")), ("a", Path("x/a.mha"))])
    assert [fault.code for fault in faults] == ["E_DUP_ID"]
    assert faults[0].got == "a (a.nii), A (A.nii.gz), a (a.mha)"


def test_a_listing_without_clutter_and_second_files(tmp_path: Path) -> None:
    for name in ("b.nii", "._b.nii", ".DS_Store", "Thumbs.db", "a.hdr", "a.img", "alone.img", "P.HDR", "p.img"):
        (tmp_path / name).touch()
    kept, clutter = listing(tmp_path)
    assert [p.name for p in kept] == ["P.HDR", "a.hdr", "alone.img", "b.nii"]
    assert clutter == [".DS_Store", "._b.nii", "Thumbs.db"]
    assert is_clutter("__MACOSX")
