"""Several runs compared: which was faster, why, and whether it showed early."""

from lnpjax.comparison._compare import (
    Comparison,
    ComparisonOptions,
    EarlyPrediction,
    Transition,
    compare,
    family_name,
)
from lnpjax.comparison._early import (
    CorrelationCurves,
    LayerCorrelations,
    correlation_over_fraction,
    correlation_over_layers,
    early_exponents,
)
from lnpjax.comparison._families import families, incomparable, repeats
from lnpjax.comparison._matching import (
    At,
    Crossing,
    Gains,
    Match,
    gains,
    match,
    reachable_target,
    token_efficiency,
    tokens_to_target,
)
from lnpjax.comparison._rank import (
    LEAST_RUNS,
    FamilyCorrelations,
    RankCorrelation,
    family_correlations,
    min_max_normalize,
    spearman,
)
from lnpjax.comparison._taxonomy import (
    KINDS,
    Displacement,
    Head,
    Verdict,
    classify,
    displacement,
    seed_spread,
)

__all__ = [
    # the whole comparison
    "compare",
    "Comparison",
    "ComparisonOptions",
    "Transition",
    "EarlyPrediction",
    "family_name",
    # where runs match, and how fast they were
    "match",
    "Match",
    "At",
    "Crossing",
    "Gains",
    "gains",
    "families",
    "reachable_target",
    "repeats",
    "token_efficiency",
    "tokens_to_target",
    "incomparable",
    # early exponents
    "early_exponents",
    "correlation_over_fraction",
    "CorrelationCurves",
    "correlation_over_layers",
    "LayerCorrelations",
    # rank correlations
    "spearman",
    "RankCorrelation",
    "family_correlations",
    "FamilyCorrelations",
    "min_max_normalize",
    "LEAST_RUNS",
    # the taxonomy
    "classify",
    "Verdict",
    "displacement",
    "Displacement",
    "Head",
    "seed_spread",
    "KINDS",
]
