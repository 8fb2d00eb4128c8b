"""Reading plans and fingerprints that were edited or written by an older version: the field, its value, the remedy."""

import math

import pytest
from analytic_cost import analytic_cost
from making import fingerprint, liver

from planners.budget import Budget, PlanningError
from planners.labels import label_table
from planners.nnunet import plan_nnunet
from planners.reading import read_fingerprint, read_nnunet_fingerprint, read_plan, upgraded


@pytest.fixture
def data():
    return plan_nnunet(liver(), Budget(), analytic_cost).model_dump(mode="json")


def _fault(data):
    with pytest.raises(PlanningError) as caught:
        read_plan(data)
    assert caught.value.remedy
    return caught.value


def test_an_unedited_plan_reads_back(data):
    assert read_plan(data) == plan_nnunet(liver(), Budget(), analytic_cost)


def test_a_wrong_value_is_named_with_its_place(data):
    data["configurations"]["3d_fullres"]["batch_size"] = 0
    fault = _fault(data)
    assert (fault.field, fault.got) == ("configurations.3d_fullres.batch_size", "0")


def test_a_contradiction_is_named_with_the_value_to_mend(data):
    data["configurations"]["3d_fullres"]["patch_size"] = [100, 128, 128]
    fault = _fault(data)
    assert (fault.field, fault.got) == ("configurations.3d_fullres.patch_size", "[100, 128, 128]")
    assert "divisible by the network's total stride (32, 32, 32)" in fault.reason


def test_a_misspelt_field_gets_a_suggestion(data):
    data["configurations"]["3d_fullres"]["bacth_size"] = 2
    fault = _fault(data)
    assert fault.field == "configurations.3d_fullres.bacth_size"
    assert "did you mean 'batch_size'" in fault.reason
    data["configurations"]["3d_fullres"].pop("bacth_size")
    data["miror_axes"] = []
    assert "did you mean 'mirror_axes'" in _fault(data).reason


def test_contradictions_deep_inside_are_found(data):
    data["configurations"]["3d_fullres"]["network"]["stages"][1]["kernel"] = [2, 3, 3]
    assert _fault(data).field == "configurations.3d_fullres.network.stages.1.kernel"
    data["configurations"]["3d_fullres"]["network"]["stages"][1]["kernel"] = [3, 3, 3]
    data["configurations"]["3d_cascade_fullres"]["previous_stage"] = "nowhere"
    fault = _fault(data)
    assert (fault.field, fault.got) == ("configurations.3d_cascade_fullres.previous_stage", "'nowhere'")


def test_several_faults_are_counted(data):
    data["configurations"]["2d"]["batch_size"] = -1
    data["training"]["epochs"] = 0
    assert "(and 1 more)" in _fault(data).reason


def test_what_is_no_plan(data):
    assert _fault([]).field == "plan"
    assert _fault({}).reason
    data["schema_version"] = 2
    assert _fault(data).field == "schema_version"
    data["schema_version"] = "one"
    assert _fault(data).field == "schema_version"
    data["schema_version"] = 0
    assert "no such version" in _fault(data).reason


def test_older_versions_are_taken_forward_step_by_step():
    steps = {1: lambda plan: {**plan, "batch": plan["size"]}, 2: lambda plan: {k: v for k, v in plan.items() if k != "size"}}
    assert upgraded({"schema_version": 1, "size": 2}, upgrades=steps, version=3) == {"schema_version": 3, "batch": 2}
    assert upgraded({"schema_version": 2, "size": 2, "batch": 3}, upgrades=steps, version=3) == {"schema_version": 3, "batch": 3}


@pytest.mark.parametrize("wrong", [0.0, -2.5, math.nan, math.inf])
def test_impossible_spacings_are_named(wrong):
    broken = fingerprint().model_dump(mode="json")
    broken["cases"][1]["spacing_mm"] = [1.0, wrong, 1.0]
    with pytest.raises(PlanningError) as caught:
        read_fingerprint(broken)
    assert (caught.value.field, caught.value.got) == ("cases.1.spacing_mm.1", str(wrong))


def test_no_cases_are_named():
    with pytest.raises(PlanningError, match="cases"):
        read_fingerprint(fingerprint().model_dump(mode="json") | {"cases": []})


def test_nnunet_files_are_read_or_their_fault_is_named():
    table = label_table({"background": 0, "a": 1})
    dataset = {"channel_names": {"0": "CT"}, "numTraining": 1}
    statistics = {"mean": 0, "median": 0, "std": 1, "min": 0, "max": 1, "percentile_00_5": 0, "percentile_99_5": 1}
    good = {
        "spacings": [[1, 1, 1]],
        "shapes_after_crop": [[9, 9, 9]],
        "median_relative_size_after_cropping": 1,
        "foreground_intensity_properties_per_channel": {"0": statistics},
    }
    assert read_nnunet_fingerprint(good, dataset, table).num_training == 1
    for change, field in (
        ({"spacings": [[1, -1, 1]]}, "spacing_mm.1"),
        ({"spacings": []}, "dataset_fingerprint"),
        ({"foreground_intensity_properties_per_channel": {}}, "0"),
    ):
        with pytest.raises(PlanningError) as caught:
            read_nnunet_fingerprint(good | change, dataset, table)
        assert caught.value.field == field
    with pytest.raises(PlanningError, match="numTraining"):
        read_nnunet_fingerprint(good, {"channel_names": {"0": "CT"}}, table)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"cases": []}, "cases", "needs at least 1 and has 0"),
        ({"num_training": 0}, "num_training", "must be at least 1"),
        ({"median_relative_size_after_crop": 1.5}, "median_relative_size_after_crop", "must be at most 1"),
        ({"median_relative_size_after_crop": 0}, "median_relative_size_after_crop", "must be more than 0"),
    ],
)
def test_faults_are_told_in_plain_words(change, field, words):
    with pytest.raises(PlanningError) as caught:
        read_fingerprint(fingerprint((30, 40, 50)).model_dump(mode="json") | change)
    assert caught.value.field == field
    assert words in caught.value.reason
