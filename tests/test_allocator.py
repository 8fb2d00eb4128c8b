"""Freed memory is kept while training and handed back after."""

import platform

import pytest
import torch

from autoseg3d import allocator
from autoseg3d.allocator import keeping_freed_pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_large_block_is_not_faulted_in_twice() -> None:
    faults = []
    with keeping_freed_pages() as taken:
        assert taken
        for _ in range(12):  # small remainders of the first blocks lie in the way of the next
            before = _page_faults()
            torch.ones(16 * 2**20)  # 64 MiB, freed at once
            faults.append(_page_faults() - before)
    assert faults[0] > 4000
    assert faults[-1] < 200


def _page_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    allocator._glibc.cache_clear()
    with keeping_freed_pages() as taken:
        assert not taken
    allocator._glibc.cache_clear()
