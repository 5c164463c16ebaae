"""What Spectral Reach claims about linear probes, judged by probes of all sizes (section 5).

"Constant" is taken for a change by less than a tenth of a decade.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, pooled
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import trained_well
from lnpjax.experiments.spectral_reach.linear_probes.measure import PROBES
from lnpjax.experiments.spectral_reach.linear_probes.results import (
    Probed,
    contrast,
    growth_on_random,
    probed,
    ratio,
)
from lnpjax.experiments.spectral_reach.scaling_laws.results import decades

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.linear_probes.config import ProbesConfig

POSITIVE = Bounds(low=0)
CONSTANT = Bounds(-0.1, 0.1)
FORMS = [(readout, selected) for readout in ("fresh", "kept") for selected in (True, False)]
"""Of equation 55: the read-out of the pre-trained backbone, and whether values are selected."""
Found = dict[str, list[Probed]]


def judge(config: ProbesConfig, sweep: Sweep) -> list[Claim | Observation]:
    """Judge the paper's claims in every form of equation 55.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    found = probed(config, sweep)
    needs = trained_well([size.runs for sizes in found.values() for size in sizes])
    return [
        *(lower(found, needs, readout, selected=selected) for readout, selected in FORMS),
        constant(found, needs),
        grows(found, needs),
        *observed(found),
    ]


def form(readout: str, *, selected: bool) -> str:
    """Return a form of equation 55 in words."""
    values = "the top 10 % of the late values" if selected else "all late values"
    return f"{readout} read-out, {values}"


def of_sizes(
    found: Found, estimate: Callable[[Probed], Uncertain], region: Bounds
) -> list[Finding]:
    """Return one finding for every size, with the errors of all sizes of a data set."""
    return [
        Finding(f"{data} {size.runs.name}", known, region)
        for data, sizes in found.items()
        for size, known in zip(sizes, pooled(list(map(estimate, sizes))), strict=True)
    ]


def lower(found: Found, needs: list[Need], readout: str, *, selected: bool) -> Claim:
    """Judge whether probes reach lower positions on pre-trained backbones, in one form."""
    printed = readout == "fresh" and selected
    return Claim(
        source="5.1, Fig. 4, eqs. 12, 55" if printed else "eq. 55, in another form",
        statement="Probes on pre-trained backbones reach lower spectral positions than on random "
        f"ones ({form(readout, selected=selected)}).",
        quantity="chi_pos(random) less chi_pos(pre-trained), over the sum of their sizes, means "
        "over normalised times above 0.9",
        findings=of_sizes(found, lambda size: contrast(size, readout, selected=selected), POSITIVE),
        needs=needs,
        note="Above 0 where the ratio of equation 12 is above 1; normalised time is the step over "
        "the number of steps",
    )


def constant(found: Found, needs: list[Need]) -> Claim:
    """Judge whether chi_net stays where the backbone is random and frozen."""
    return Claim(
        source="5.2, Fig. 5",
        statement="Linear probes on random backbones maintain constant chi_net.",
        quantity="log10 of chi_net in the last window over the mean of the first 5 steps",
        findings=of_sizes(found, growth_on_random, CONSTANT),
        needs=needs,
    )


def grows(found: Found, needs: list[Need]) -> Claim:
    """Judge whether chi_net grows where all layers are trained."""
    return Claim(
        source="5.2, Fig. 5",
        statement="Models whose layers are all trained show increasing chi_net.",
        quantity="log10 of chi_net in the last window over the mean of the first 5 steps",
        findings=of_sizes(found, lambda size: decades(size.runs, "chi_net"), POSITIVE),
        needs=needs,
    )


def observed(found: Found) -> list[Observation]:
    """Tell the ratios themselves, and how much probes overfit."""

    def per_size(tell: Callable[[Probed], str]) -> str:
        return "; ".join(
            f"{data}: " + ", ".join(f"{size.runs.name} {tell(size)}" for size in sizes)
            for data, sizes in found.items()
        )

    def overfit(size: Probed) -> str:
        means = size.overfit.mean(axis=1)
        return "/".join(f"{mean:.1%}" for mean in means)

    def tell_ratio(readout: str, selected: bool) -> Callable[[Probed], str]:
        return lambda size: f"{ratio(size, readout, selected=selected).value:.2g}"

    names = ", ".join(f"{backbone} with {readout} read-out" for backbone, readout in PROBES)
    return [
        *(
            Observation(
                source="Fig. 4, eq. 55",
                statement=f"Random over pre-trained ({form(readout, selected=selected)}).",
                seen=per_size(tell_ratio(readout, selected)),
            )
            for readout, selected in FORMS
        ),
        Observation(
            source="C.1",
            statement="Linear probes tend to overfit in later training stages.",
            seen=f"test loss at the end above the lowest one ({names}): {per_size(overfit)}",
        ),
    ]
