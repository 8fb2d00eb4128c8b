"""The fingerprint: axes of stored arrays, and nnU-Net's own files."""

import copy

import numpy as np
import pytest
from making import fingerprint
from pydantic import ValidationError

from planners.fingerprint import fingerprint_from_nnunet
from planners.labels import label_table

_NNUNET = {
    "spacings": [[3.0, 1.0, 2.0], [3.0, 1.0, 1.0]],
    "shapes_after_crop": [[10, 20, 30], [11, 21, 31]],
    "median_relative_size_after_cropping": 0.5,
    "foreground_intensity_properties_per_channel": {
        str(i): {"mean": i, "median": 0, "std": 1, "min": -1, "max": 1, "percentile_99_5": 1, "percentile_00_5": -1} for i in range(2)
    },
}
_DATASET = {"channel_names": {"1": "T2", "0": "T1"}, "numTraining": 7, "labels": {"background": 0, "a": 1}, "name": "Some"}


def test_canonical_axes_follow_the_stored_letters():
    # x runs to the front, y upwards, z to the left: the array (z, y, x) lies along L, S, A, so S, A, R are axes 1, 2, 0.
    turned = fingerprint((10, 20, 30), (1.0, 2.0, 3.0), orientation="ASL")
    assert turned.cases[0].axes("canonical") == (1, 2, 0)
    assert turned.shapes("canonical")[0].tolist() == [20, 30, 10]
    assert turned.spacings("canonical")[0].tolist() == [2.0, 3.0, 1.0]
    assert turned.shapes()[0].tolist() == [10, 20, 30]
    assert turned.shapes().dtype == np.int64


def test_an_unknown_orientation_stays_as_stored():
    assert fingerprint((10, 20, 30), orientation=None).shapes("canonical")[0].tolist() == [10, 20, 30]


def test_nnunet_files_are_read():
    read = fingerprint_from_nnunet(_NNUNET, _DATASET, label_table(_DATASET["labels"]))
    assert read.channel_names == ("T1", "T2")
    assert [statistics.mean for statistics in read.intensities] == [0, 1]
    assert (read.num_training, read.dataset_name, read.median_relative_size_after_crop) == (7, "Some", 0.5)
    assert read.shapes().tolist() == [[10, 20, 30], [11, 21, 31]]


def test_old_nnunet_files_say_modality():
    old = {key: value for key, value in _DATASET.items() if key != "channel_names"} | {"modality": {"0": "T1", "1": "T2"}}
    assert fingerprint_from_nnunet(_NNUNET, old, label_table(_DATASET["labels"])).channel_names == ("T1", "T2")


def test_unequal_lists_and_impossible_spacings_are_refused():
    short = copy.deepcopy(_NNUNET)
    short["spacings"].pop()
    with pytest.raises(ValueError, match="2 shapes_after_crop but 1 spacings"):
        fingerprint_from_nnunet(short, _DATASET, label_table(_DATASET["labels"]))
    for wrong in (0.0, -1.0, float("nan")):
        broken = copy.deepcopy(_NNUNET)
        broken["spacings"][1][2] = wrong
        with pytest.raises(ValidationError, match="spacing_mm"):
            fingerprint_from_nnunet(broken, _DATASET, label_table(_DATASET["labels"]))


def test_no_cases_and_missing_statistics_are_refused():
    good = fingerprint().model_dump()
    for change in ({"cases": ()}, {"intensities": ()}):
        with pytest.raises(ValidationError):
            type(fingerprint()).model_validate(good | change)
