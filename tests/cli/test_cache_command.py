"""The cache command tells what the cases of a run take and who uses them, and removes the others."""

from pathlib import Path

import pytest
from small_datasets import write_blobs

from autoseg3d import api, files
from autoseg3d.cli import main
from autoseg3d.errors import UsageError
from autoseg3d.io import open_dataset
from autoseg3d.preprocessing import cache_key, prepare
from autoseg3d.run import RunFolder, RunRecord


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned run with the cases of its configuration, and those of one that the plan no longer has."""
    folder = tmp_path_factory.mktemp("cache")
    raw, run = write_blobs(folder / "raw", 6), folder / "run"
    fingerprint = api.measure(raw, run, reading=api.Reading(workers=1)).fingerprint
    plan, dataset = api.plan_fingerprint(fingerprint, wishes=api.PlanWishes(planner="nnunet")), open_dataset(raw)
    record = RunRecord(software_version="0", raw=str(raw), command={})
    RunFolder(run).write(record=record, fingerprint=fingerprint, plan=plan, splits_json="{}", plan_text="")
    older = plan.configurations["3d_fullres"].model_copy(update={"spacing_mm": (3.0, 2.0, 2.0)})
    for made in (plan, plan.model_copy(update={"configurations": {"3d_fullres": older}})):
        prepare(dataset, made, "3d_fullres", run / "cache")
    return run


def test_parts_of_the_cache_and_their_users(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {part.used_by: part for part in api.cache(run)}
    assert set(parts) == {(), ("3d_fullres",), ("plan",)}
    assert parts[()].cases == parts[("3d_fullres",)].cases == 6
    assert "3 × 2 × 2 mm" in parts[()].what
    with pytest.raises(SystemExit) as left:
        main(["cache", str(run)])
    assert left.value.code in (0, None)
    shown = capsys.readouterr().out
    assert all(part.name in shown for part in parts.values())


def test_cleaning_keeps_what_the_plan_uses_and_what_a_training_reads(run: Path) -> None:
    unused = next(part for part in api.cache(run) if not part.used_by)
    with files.in_use(run / "cache" / unused.name):
        assert api.clean_cache(run) == api.Cleaned(0, (unused.name,))
    assert api.clean_cache(run).bytes_freed > 0
    key = cache_key(RunFolder(run).plan(), "3d_fullres")
    assert {part.name for part in api.cache(run)} == {key, "survey"}
    assert api.clean_cache(run, everything=True).bytes_freed > 0
    assert {part.name for part in api.cache(run)} == {"survey"}
    with pytest.raises(UsageError):
        api.clean_cache(run.parent)
