"""What an examination found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["fine", "warning", "fault"]
_ORDER: tuple[Verdict, ...] = ("fine", "warning", "fault")


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    what     the thing, in two or three words
    verdict  "fine"; "warning": works, but some things will be slow or missing; "fault": something will fail
    said     what was found, and what follows from it
    remedy   the next step, where there is one
    """

    what: str
    verdict: Verdict
    said: str
    remedy: str = ""


def worst(findings: Iterable[Finding]) -> Verdict:
    """The gravest verdict, "fine" of nothing."""
    return max((finding.verdict for finding in findings), key=_ORDER.index, default="fine")
