"""Reasons: collected in order, found by field, and complete."""

import pytest
from analytic_cost import analytic_cost
from making import liver

from planners.budget import Budget
from planners.explain import Choice, Ledger, bytes_text, duration_text, leaves, reasons_for, triple_text, unexplained
from planners.nnunet import plan_nnunet
from planners.plan import Decision


def test_the_ledger_gives_the_value_back_and_keeps_the_order():
    ledger = Ledger()
    assert ledger.take("a.b", Choice(3, "rule", "because")) == 3
    ledger.note("c", "other", "why")
    assert ledger.decisions == (Decision(field="a.b", rule="rule", reason="because"), Decision(field="c", rule="other", reason="why"))


def test_leaves_number_records_and_skip_null():
    data = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": [{"f": 1}, {"f": 2}]}
    assert list(leaves(data)) == ["a", "b.c", "e.0.f", "e.1.f"]


def test_missing_reasons_are_found():
    plan = plan_nnunet(liver(), Budget(), analytic_cost)
    kept = tuple(d for d in plan.decisions if d.field != "configurations.2d.batch_size" and not d.field.startswith("training"))
    silent = unexplained(plan.model_copy(update={"decisions": kept}))
    assert "configurations.2d.batch_size" in silent
    assert "training.epochs" in silent
    assert "configurations.3d_fullres.batch_size" not in silent


def test_reasons_of_stages_speak_for_every_stage():
    plan = plan_nnunet(liver(), Budget(), analytic_cost)
    assert reasons_for(plan, "configurations.3d_fullres.network.stages.4.kernel")
    assert reasons_for(plan, "configurations.3d_fullres")
    assert not reasons_for(plan, "configurations.3d")


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (1200, "20 min"), (6 * 3600, "6 h"), (23400, "6.5 h"), (3.2 * 86400, "3.2 days"), (0.5, "0.5 s")]
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


def test_sizes():
    assert triple_text((128, 96.5, 1.00001)) == "128 × 96.5 × 1"
    assert bytes_text(8 * 1024**3) == "8.00 GiB"
    assert bytes_text(512 * 1024**2) == "512 MiB"
