"""The plan: contradictions between its fields are found, each named."""

import pytest
from analytic_cost import analytic_cost
from making import hippocampus, liver
from pydantic import ValidationError

from planners.budget import Budget
from planners.contract import FieldError
from planners.nnunet import plan_nnunet
from planners.plan import Plan


@pytest.fixture(scope="module")
def cascade() -> Plan:
    return plan_nnunet(liver(), Budget(), analytic_cost)


def test_a_plan_survives_json(cascade):
    assert Plan.model_validate_json(cascade.to_json()) == cascade


def test_default_configuration_and_input_channels(cascade):
    assert cascade.configuration()[0] == "3d_fullres"
    assert cascade.configuration("2d")[1].slicewise
    assert cascade.in_channels("3d_fullres") == 1
    assert cascade.in_channels("3d_cascade_fullres") == 3
    with pytest.raises(KeyError):
        cascade.configuration("4d")


def test_total_stride_is_the_product_per_axis(cascade):
    assert cascade.configurations["3d_fullres"].network.total_stride == (32, 32, 32)
    assert cascade.configurations["2d"].network.total_stride == (1, 128, 128)


_CONTRADICTIONS = [
    ("configurations.3d_fullres.patch_size", [100, 128, 128], "patch_size"),
    ("configurations.3d_fullres.network.decoder_blocks", [2, 2], "decoder_blocks"),
    ("configurations.3d_fullres.network.stages.0.stride", [2, 2, 2], "stages.0.stride"),
    ("configurations.3d_fullres.network.stages.1.kernel", [3, 2, 3], "kernel"),
    ("configurations.3d_fullres.use_mask_for_norm", [False, True], "use_mask_for_norm"),
    ("configurations.3d_fullres.median_shape", [0, 1, 1], "median_shape"),
    ("configurations.3d_fullres.augmentation.scale", [1.4, 0.7], "scale"),
    ("configurations.2d.patch_size", [2, 512, 512], "patch_size"),
    ("configurations.3d_cascade_fullres.previous_stage", "3d_lowest", "configurations.3d_cascade_fullres.previous_stage"),
    ("configurations.3d_lowres.previous_stage", "3d_cascade_fullres", "previous_stage"),
    ("axis_order", [0, 1, 1], "axis_order"),
    ("mirror_axes", [1, 1], "mirror_axes"),
    ("intensities", [], "intensities"),
    ("channel_names", ["CT", "MRI"], "intensities"),
]


@pytest.mark.parametrize(("path", "value", "field"), _CONTRADICTIONS)
def test_contradictions_name_their_field(cascade, path, value, field):
    data = cascade.model_dump(mode="json")
    place = data
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[last] = value
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(data)
    causes = [fault.get("ctx", {}).get("error") for fault in caught.value.errors()]
    assert any(isinstance(cause, FieldError) and field in cause.field for cause in causes), causes


def test_a_configuration_needs_a_scheme_per_channel():
    data = plan_nnunet(hippocampus(), Budget(), analytic_cost).model_dump(mode="json")
    data["configurations"]["2d"] |= {"normalization": ["ct", "ct"], "use_mask_for_norm": [False, False]}
    with pytest.raises(ValidationError, match=r"2d\.normalization needs 1"):
        Plan.model_validate(data)
