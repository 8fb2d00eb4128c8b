"""The error tree: exit codes, readable text, and the way across process boundaries."""

import pickle
import re
from pathlib import Path

import pytest

from autoseg3d import errors


def _leaves(kind: type[errors.Autoseg3dError]) -> list[type[errors.Autoseg3dError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in _leaves(sub))]


@pytest.mark.parametrize("kind", _leaves(errors.Autoseg3dError))
def test_every_error_has_a_stable_code_and_a_documented_exit_code(kind: type[errors.Autoseg3dError]) -> None:
    assert kind.default_code.startswith("E_")
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.exit_code in {1, 2, 3, 4}


def test_every_code_in_the_source_stands_in_the_reference(repository_root: Path) -> None:
    text = (repository_root / "docs/reference/errors.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for top in ("autoseg3d", "planners") for path in (repository_root / top).rglob("*.py")]
    codes = {code for source in sources for code in re.findall(r'"(E_[A-Z0-9_]+)"', source)}
    assert {code for code in codes if code not in text and not code.startswith("E_MODEL_")} == set()


def test_the_text_names_place_facts_and_remedy() -> None:
    error = errors.ReadError(
        "the file ends too early", code="E_TRUNCATED", file="a.nii.gz", case="a", wanted="100 bytes", got="60 bytes", remedy="Copy it again"
    )
    assert str(error) == "E_TRUNCATED: case a, file a.nii.gz: the file ends too early (wanted 100 bytes; got 60 bytes). Copy it again."


def test_a_dataset_error_lists_every_fault() -> None:
    faults = [errors.LabelError("value 7 is not declared", case="c1"), errors.ReadError("not NIfTI", file="c2.nii")]
    text = str(errors.DatasetError("2 faults", faults))
    assert text.count("\n") == 2
    assert "case c1" in text
    assert "c2.nii" in text


@pytest.mark.parametrize("kind", _leaves(errors.Autoseg3dError))
def test_errors_survive_the_way_between_processes(kind: type[errors.Autoseg3dError]) -> None:
    error = (
        errors.DatasetError("bad", [errors.ReadError("x", file="f")], file="r")
        if kind is errors.DatasetError
        else kind("bad", file="f", got=3)
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
