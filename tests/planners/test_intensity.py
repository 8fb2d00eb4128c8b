"""Normalisation by channel name."""

import pytest

from planners.intensity import normalization, use_mask_for_norm


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("rgb_to_0_1", "rgb_to_0_1"),
        ("MRI", "zscore"),
        ("CT scan", "zscore"),
        ("zscore", "zscore"),
    ],
)
def test_the_name_decides(name, scheme):
    assert normalization([name]).value == (scheme,)


def test_masks_serve_z_score_channels_of_mostly_empty_scans():
    schemes = normalization(["CT", "T1", "noNorm"]).value
    assert use_mask_for_norm(schemes, 0.74).value == (False, True, False)
    assert use_mask_for_norm(schemes, 0.75).value == (False, False, False)


def test_the_reason_names_every_channel():
    assert "'CT' is normalised by ct, 'T1' is normalised by zscore" in normalization(["CT", "T1"]).reason
