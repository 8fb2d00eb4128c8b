"""The base of all records: immutable, strict, readable, hashed by content."""

import json
import math

import pytest
from pydantic import ValidationError

from planners.contract import Contract, FieldError, SpacingTriple, readable_json


class _Point(Contract):
    name: str
    spacing: SpacingTriple


def test_records_are_frozen_and_refuse_unknown_fields():
    point = _Point(name="a", spacing=(1.0, 2.0, 3.0))
    with pytest.raises(ValidationError):
        point.name = "b"
    with pytest.raises(ValidationError, match="Extra inputs"):
        _Point.model_validate({"name": "a", "spacing": [1, 2, 3], "spacng": 1})


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_spacings_are_positive_and_finite(wrong):
    with pytest.raises(ValidationError):
        _Point(name="a", spacing=(1.0, wrong, 1.0))


def test_readable_json_keeps_number_lists_on_one_line_and_reads_back():
    value = {"a": [1, 2, 3], "b": {"c": [{"d": 1}, {"d": [0.5, 0.25]}]}, "e": {}, "f": "ä"}
    text = readable_json(value)
    assert '"a": [1, 2, 3]' in text
    assert "ä" in text
    assert text.endswith("}\n")
    assert json.loads(text) == value


def test_equal_content_has_an_equal_hash():
    one, same, other = (_Point(name="a", spacing=(1.0, 1.0, z)) for z in (1.0, 1.0, 2.0))
    assert one.content_hash() == same.content_hash() != other.content_hash()
    assert len(one.content_hash()) == 64


def test_a_field_error_names_its_field():
    assert FieldError("patch_size", "too large").field == "patch_size"
