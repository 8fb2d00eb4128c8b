"""Left and right: by names, by label statistics, and where the orientation is unknown."""

from making import fingerprint

from planners.fingerprint import LabelObservation
from planners.sides import mirror_axes, mirrored_pairs, side_warning


def _seen(s, a, r, volume=10.0):
    return LabelObservation(voxels=1000, volume_ml=volume, centroid=(s, a, r))


def _pair(first, second, *, cases=10, **options):
    observed = [{"a": first, "b": second} for _ in range(cases)]
    return fingerprint(cases=cases, observed=observed, **options)


def test_mirror_images_about_the_mid_plane_are_found():
    assert mirrored_pairs(_pair(_seen(0.5, 0.4, 0.3), _seen(0.52, 0.42, 0.7, 12.0))) == (("a", "b"),)


def test_what_is_no_mirror_image():
    assert mirrored_pairs(_pair(_seen(0.5, 0.3, 0.5), _seen(0.5, 0.7, 0.5))) == ()  # one before the other
    assert mirrored_pairs(_pair(_seen(0.5, 0.5, 0.3), _seen(0.8, 0.5, 0.7))) == ()  # at different heights
    assert mirrored_pairs(_pair(_seen(0.5, 0.5, 0.1), _seen(0.5, 0.5, 0.4))) == ()  # both on one side
    assert mirrored_pairs(_pair(_seen(0.5, 0.5, 0.3, 10.0), _seen(0.5, 0.5, 0.7, 100.0))) == ()  # of unlike size
    # The left and right ventricle in ACDC: at one height, of one size, but both on the same side of the middle.
    assert mirrored_pairs(_pair(_seen(0.407, 0.503, 0.521, 140.5), _seen(0.378, 0.469, 0.646, 135.8))) == ()
    assert mirrored_pairs(fingerprint()) == ()  # nothing observed


def test_a_field_of_view_off_the_middle_is_forgiven():
    assert mirrored_pairs(_pair(_seen(0.5, 0.5, 0.35), _seen(0.5, 0.5, 0.75))) == (("a", "b"),)


def test_labels_that_change_sides_are_no_pair():
    there = {"a": _seen(0.5, 0.5, 0.3), "b": _seen(0.5, 0.5, 0.7)}
    back = {"a": _seen(0.5, 0.5, 0.7), "b": _seen(0.5, 0.5, 0.3)}
    assert mirrored_pairs(fingerprint(cases=9, observed=[there] * 5 + [back] * 4)) == ()
    assert mirrored_pairs(fingerprint(cases=20, observed=[there] * 19 + [back])) == (("a", "b"),)


def test_absent_labels_are_no_evidence():
    absent = LabelObservation(voxels=0, volume_ml=0.0)
    assert mirrored_pairs(_pair(_seen(0.5, 0.5, 0.3), absent)) == ()
    never_together = [{"a": _seen(0.5, 0.5, 0.3), "b": absent}, {"a": absent, "b": _seen(0.5, 0.5, 0.7)}]
    assert mirrored_pairs(fingerprint(cases=2, observed=never_together)) == ()


def test_names_turn_off_the_left_right_axis_in_network_order():
    named = fingerprint(labels={"background": 0, "kidney_left": 1, "kidney_right": 2})
    choice = mirror_axes(named, (0, 1, 2))
    assert choice.value == (0, 1)
    assert "kidney_left and kidney_right" in choice.reason
    assert mirror_axes(named, (2, 0, 1)).value == (1, 2)
    assert mirror_axes(named, (1, 0, 2)).value == (0, 1)


def test_statistics_alone_turn_it_off_too():
    suspected = _pair(_seen(0.5, 0.4, 0.3), _seen(0.5, 0.4, 0.7))
    assert mirror_axes(suspected, (0, 1, 2)).value == (0, 1)
    assert "mirror images" in mirror_axes(suspected, (0, 1, 2)).reason


def test_no_sides_all_axes():
    assert mirror_axes(fingerprint(), (0, 1, 2)).value == (0, 1, 2)
    assert side_warning(fingerprint()) == ""


def test_sides_without_orientation_forbid_every_flip():
    blind = fingerprint(labels={"background": 0, "l_lung": 1, "r_lung": 2}, orientation=None)
    assert mirror_axes(blind, (0, 1, 2)).value == ()
    assert "orientation of 3 of 3 cases is unknown" in mirror_axes(blind, (0, 1, 2)).reason


def test_parity_planners_warn():
    assert side_warning(fingerprint(labels={"background": 0, "left x": 1, "right x": 2})).startswith("WARNING")
