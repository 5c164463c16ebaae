"""What a paper claims next to what was measured here: estimates against stated regions.

A claim has one or more findings, each an estimate that must lie in a region, and what it rests on.
The verdict follows and is nobody's choice: where a need is not met, the set-up falls short of the
paper, which says nothing about the claim; where the 95 % intervals of all findings lie inside of
their regions the claim holds; where one of them lies outside it does not; else nothing can be told.
For the latter intervals are widened for their number, since one of many is outside by chance; to
find all of them inside by chance is no likelier than to find one.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lnpjax.experiments._harness.estimates import Bounds, Uncertain

Verdict = Literal["holds", "does not hold", "cannot tell", "set-up short of the paper"]
COVERAGE = 0.95
SHOWN = 4  # findings that a table lists one by one


class Need(NamedTuple):
    """A precondition of a claim, and never itself a finding against a paper.

    Attributes:
        what: must be so.
        met: whether it is.
        here: what there is, for people.
    """

    what: str
    met: bool
    here: str = ""

    @classmethod
    def at_least(cls, least: int, what: str, count: int) -> Need:
        """Need so many of something.

        Example:
            >>> print(Need.at_least(3, "seeds", 2))
            3 seeds (2)
        """
        return cls(f"{least} {what}", count >= least, str(count))

    def __str__(self) -> str:
        """What is needed, and what there is."""
        return f"{self.what} ({self.here})" if self.here else self.what


@dataclasses.dataclass(frozen=True)
class Finding:
    """An estimate, and where it lies if the claim is true.

    Attributes:
        what: it is an estimate for, such as the name of a data set.
        estimate: the number.
        region: that must hold it.
    """

    what: str
    estimate: Uncertain
    region: Bounds

    @property
    def interval(self) -> Bounds:
        """The 95 % interval."""
        return self.estimate.interval(COVERAGE)

    @property
    def inside(self) -> bool:
        """Whether the interval lies in the region."""
        low, high = self.interval
        return self.region.low <= low and high <= self.region.high

    def outside(self, coverage: float) -> bool:
        """Whether the interval of that coverage and the region are disjoint."""
        low, high = self.estimate.interval(coverage)
        return high < self.region.low or low > self.region.high

    @property
    def text(self) -> str:
        """What it is for, the estimate, and its interval."""
        low, high = self.interval
        value = self.estimate.value
        length = high - low
        # Two digits of the interval's length.
        digits = 1 - math.floor(math.log10(length)) if 0 < length < math.inf else 3
        digits = min(max(digits, 0), 4)
        number = f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
        return f"{self.what}: {number}" if self.what else number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper and its fate.

    Attributes:
        source: where the paper says it, as "Fig. 4a".
        statement: what it says, in one sentence.
        quantity: what is estimated.
        findings: all must lie in their regions.
        needs: all must be met.
        note: what a reader should know besides.
    """

    source: str
    statement: str
    quantity: str
    findings: Sequence[Finding]
    needs: Sequence[Need] = ()
    note: str = ""

    @property
    def joint_coverage(self) -> float:
        """Of each interval, so that they hold the truth together with 95 % (Bonferroni)."""
        return 1 - (1 - COVERAGE) / max(len(self.findings), 1)

    @property
    def missing(self) -> list[Need]:
        """The needs that are not met."""
        return [need for need in self.needs if not need.met]

    @property
    def verdict(self) -> Verdict:
        """What estimates, regions and needs make of the claim.

        Example:
            >>> finding = Finding("", Uncertain(0.5, 0.1, 99), Bounds(0, 1))
            >>> Claim(source="", statement="", quantity="", findings=[finding]).verdict
            'holds'
        """
        if self.missing:
            return "set-up short of the paper"
        if any(finding.outside(self.joint_coverage) for finding in self.findings):
            return "does not hold"
        inside = all(finding.inside for finding in self.findings)
        return "holds" if inside and self.findings else "cannot tell"

    @property
    def measured(self) -> str:
        """The estimates with their intervals; of many, the one that is worst for the claim."""
        if not self.findings:
            return "not measured"
        if len(self.findings) <= SHOWN:
            return "; ".join(finding.text for finding in self.findings)
        inside = sum(finding.inside for finding in self.findings)
        worst = max(self.findings, key=_excess)
        return f"{inside} of {len(self.findings)} inside; worst {worst.text}"

    @property
    def region(self) -> str:
        """Where the estimates must lie."""
        names: dict[str, list[str]] = {}
        for finding in self.findings:
            names.setdefault(str(finding.region), []).append(finding.what)
        if len(names) <= 1:
            return next(iter(names), "")
        if len(self.findings) <= SHOWN:
            return "; ".join(f"{finding.what}: {finding.region}" for finding in self.findings)
        count = len(self.findings)
        return "; ".join(
            f"{whats[0] if len(whats) == 1 else f'{len(whats)} of {count}'}: {region}"
            for region, whats in names.items()
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """What a figure shows and nobody judges.

    Attributes:
        source: where the paper shows it.
        statement: what the paper says.
        seen: what is seen here.
    """

    source: str
    statement: str
    seen: str


def _excess(finding: Finding) -> float:
    """By how much of its length the interval leaves the region; negative inside."""
    low, high = finding.interval
    excess = max(finding.region.low - low, high - finding.region.high)
    return excess / max(high - low, sys.float_info.min) if math.isfinite(excess) else math.inf
