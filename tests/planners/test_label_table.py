"""What label values mean: classes, regions, ignore, dense indices, left and right."""

import numpy as np
import pytest
from pydantic import ValidationError

from planners.labels import Label, LabelTable, label_table


def test_plain_labels_become_softmax_classes_in_the_order_of_their_values():
    table = label_table({"background": 0, "spleen": 5, "liver": 2})
    assert [label.name for label in table.labels] == ["liver", "spleen"]
    assert table.values == (2, 5)
    assert table.allowed_values == (0, 2, 5)
    assert table.class_paint == (0, 2, 5)
    assert table.class_members == ((1,), (2,))
    assert (table.num_classes, table.num_entries, table.has_regions) == (3, 3, False)


def test_regions_become_sigmoid_classes_in_their_own_order():
    table = label_table({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}, [1, 2, 3])
    assert (table.num_classes, table.num_entries, table.has_regions) == (3, 5, True)
    assert table.class_paint == (1, 2, 3)
    assert table.class_members == ((1, 2, 3), (2, 3), (3,))
    assert table.ignore_index == 4


def test_value_indices_are_dense_and_refuse_unknown_values():
    table = label_table({"background": 0, "a": 3, "b": 700, "ignore": 701})
    indices = table.value_indices(np.array([[0, 3], [700, 701]]))
    assert indices.dtype == np.int16
    assert indices.tolist() == [[0, 1], [2, 3]]
    for wrong in (1, 702, -1):
        with pytest.raises(ValueError, match=str(wrong)):
            table.value_indices(np.array([0, wrong]))


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["kidney_left", "kidney_right"], [("kidney_left", "kidney_right")]),
        (["RightParotid", "LeftParotid"], [("LeftParotid", "RightParotid")]),
        (["L-Hippocampus", "R-Hippocampus"], [("L-Hippocampus", "R-Hippocampus")]),
        (["Lung", "Rung"], []),
        (["left ventricle", "myocardium"], []),
    ],
)
def test_left_and_right_are_found_in_names(names, pairs):
    table = label_table({name: i for i, name in enumerate(names, start=1)})
    assert list(table.left_right_pairs()) == pairs


@pytest.mark.parametrize(
    ("entries", "order", "message"),
    [
        ({"background": 1, "a": 2}, None, "background"),
        ({"a": [1, 2]}, None, "regions_class_order"),
        ({"a": [1, 2], "b": 2}, [1], "2 values"),
        ({"a": 1, "ignore": [2]}, None, "ignore"),
        ({"a": 1, "b": 1}, None, "used twice"),
        ({"a": 2, "ignore": 1}, None, "highest"),
        ({"a": [1, 2], "ignore": 2}, [1], "ignore value"),
    ],
)
def test_contradictory_tables_are_refused(entries, order, message):
    with pytest.raises(ValueError, match=message):
        label_table(entries, order)


def test_names_differ():
    with pytest.raises(ValidationError, match="used twice: a"):
        LabelTable(labels=(Label(name="a", values=(1,), paint=1), Label(name="a", values=(2,), paint=2)))


def test_a_cascade_hands_on_label_values_also_where_there_are_regions() -> None:
    table = label_table({"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, [1, 2])
    assert table.value_members == ((1,), (2,), (3,))
    assert table.class_members == ((1, 2, 3), (2, 3))
