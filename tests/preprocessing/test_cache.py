"""What lies in the cache is told; what nobody needs can be removed, by any process at any moment, and nothing that somebody needs."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_datasets import small_plan, write_blobs

from autoseg3d import files
from autoseg3d.io.dataset import Dataset, open_dataset
from autoseg3d.preprocessing import CaseStore, cache_key, clean, entries, prepare
from planners.plan import Plan

PLAN = small_plan(spacing_mm=(2.0, 1.2, 1.3))
OTHER = small_plan(spacing_mm=(2.0, 1.2, 1.4))
KEY, OTHER_KEY = cache_key(PLAN, "3d_fullres"), cache_key(OTHER, "3d_fullres")


@pytest.fixture
def blobs(tmp_path: Path) -> Dataset:
    return open_dataset(write_blobs(tmp_path / "raw", 3))


@pytest.fixture
def cache(tmp_path: Path, blobs: Dataset) -> Path:
    for plan in (PLAN, OTHER):
        _prepared(blobs, tmp_path / "cache", plan)
    (tmp_path / "cache" / "survey").mkdir()
    (tmp_path / "cache" / "survey" / "observations.jsonl").write_text("x")
    return tmp_path / "cache"


def _prepared(dataset: Dataset, cache: Path, plan: Plan = PLAN) -> CaseStore:
    return prepare(dataset, plan, "3d_fullres", cache)


def test_entries_tell_what_they_hold(cache: Path) -> None:
    found = {entry.folder.name: entry for entry in entries(cache)}
    assert set(found) == {KEY, OTHER_KEY}
    assert found[KEY].cases == 3
    assert found[KEY].bytes == sum(path.stat().st_size for path in (cache / KEY).iterdir())
    assert found[OTHER_KEY].recipe is not None
    assert found[OTHER_KEY].recipe.spacing_mm == (2.0, 1.2, 1.4)
    (cache / KEY / "recipe.json").write_text('{"version": 1}')
    assert next(entry for entry in entries(cache) if entry.folder.name == KEY).recipe is None
    assert entries(cache / "nowhere") == []


def test_cleaning_removes_what_is_not_named(blobs: Dataset, cache: Path) -> None:
    freed, busy = clean(cache, keep=[KEY])
    assert freed > 1000
    assert busy == ()
    assert sorted(path.name for path in cache.iterdir()) == sorted([KEY, "survey"])
    assert clean(cache, keep=[])[0] > 0
    assert [path.name for path in cache.iterdir()] == ["survey"]
    assert clean(cache / "nowhere", keep=[]) == (0, ())
    assert len(_prepared(blobs, cache).ids) == 3


def test_what_is_being_filled_or_used_stays(blobs: Dataset, cache: Path) -> None:
    with files.lock(cache / KEY), files.in_use(cache / OTHER_KEY), files.in_use(cache / OTHER_KEY):
        assert clean(cache, keep=[]) == (0, tuple(sorted([KEY, OTHER_KEY])))
    assert len(entries(cache)) == 2
    assert clean(cache, keep=[])[1] == ()


def test_a_user_that_was_killed_uses_nothing_any_more(cache: Path) -> None:
    code = f"from autoseg3d.files import in_use\nwith in_use({str(cache / KEY)!r}):\n print('in', flush=True)\n input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()
        assert clean(cache, keep=[])[1] == (KEY,)
        user.kill()
        user.wait()
    assert list((cache / KEY).glob(".used-by-*")) != []
    assert clean(cache, keep=[])[1] == ()
    assert not (cache / KEY).exists()


READER = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_cache import OTHER, PLAN, prepare, files, open_dataset
folder, used = Path({cache!r}), Path({cache!r}) / {key!r}
with files.in_use(used):
    store = prepare(open_dataset({raw!r}), PLAN, "3d_fullres", folder)
    print(store.read("c00", (0, 0, 0), (4, 4, 4))[0].sum(), flush=True)
    sys.stdin.readline()
    print(sum(float(store.working_case(case).image.sum()) for case in store.ids), flush=True)
"""


def test_a_process_that_reads_keeps_its_cases_while_others_are_removed(blobs: Dataset, cache: Path, repository_root: Path) -> None:
    paths = [str(repository_root), str(repository_root / "tests"), str(Path(__file__).parent)]
    code = READER.format(paths=paths, cache=str(cache), key=KEY, raw=str(blobs.root))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        assert clean(cache, keep=[])[1] == (KEY,)
        total = float(reader.communicate("go on\n", timeout=30)[0])
        assert reader.returncode == 0
    store = _prepared(blobs, cache)
    assert total == pytest.approx(sum(float(store.working_case(case).image.sum()) for case in store.ids))
    assert clean(cache, keep=[])[1] == ()


def test_a_folder_removed_while_a_process_waits_for_it_is_locked_anew(tmp_path: Path) -> None:
    """Whoever gets the lock has the lock of the file that is there, not of one that was removed."""
    folder = tmp_path / "entry"
    code = (
        f"from autoseg3d.files import lock\nprint('asks', flush=True)\n"
        f"with lock({str(folder)!r}, wait_seconds=20):\n print('has', flush=True)\n input()"
    )
    with files.lock(folder), subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        (folder / ".lock").unlink()
        assert waiting.stdout.readline() == b"has\n"
        assert files.is_used(folder) is False
        with pytest.raises(files.LockedError), files.lock(folder):
            pass
        waiting.kill()
