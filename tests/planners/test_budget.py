"""The budget: whose memory counts, and when there is too little of it."""

import pytest

from planners.budget import GIB, LEAST_MEMORY, Budget, PlanningError


def test_memory_is_what_the_user_grants_then_what_is_free_then_the_default():
    assert Budget(memory_bytes=2 * GIB, free_bytes=4 * GIB).memory_for(8 * GIB, use_free=True) == 2 * GIB
    assert Budget(free_bytes=4 * GIB).memory_for(8 * GIB, use_free=True) == 4 * GIB
    assert Budget(free_bytes=4 * GIB).memory_for(8 * GIB) == 8 * GIB
    assert Budget().memory_for(24 * GIB, use_free=True) == 24 * GIB


def test_ten_megabytes_are_refused_with_field_value_and_remedy():
    with pytest.raises(PlanningError, match=r"memory_bytes = 10 MiB: .*64 MiB.*--memory 8GB") as caught:
        Budget(memory_bytes=10_000_000).memory_for(8 * GIB)
    assert (caught.value.field, caught.value.got) == ("memory_bytes", "10 MiB")
    assert Budget(memory_bytes=LEAST_MEMORY).memory_for(8 * GIB) == LEAST_MEMORY
