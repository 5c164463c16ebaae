"""Claims and observations for people and for programs: a terminal, Markdown, JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lnpjax._base.checks import import_extra
from lnpjax.experiments._harness.claims import Claim, Observation

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {
    "holds": "green",
    "does not hold": "red",
    "cannot tell": "yellow",
    "set-up short of the paper": "dim",
}
HOW = (
    "A claim is judged by estimates, each with a 95 % interval, that must lie in a stated region: "
    "it holds if all intervals lie inside, does not hold if one lies outside even when it is "
    "widened for their number, and else nothing can be told. Where the set-up falls short of the "
    "paper in what a claim needs, nothing is said about the claim."
)


def claims_table(title: str, judged: Sequence[Claim | Observation]) -> Table:
    """Return the claims as a table for a terminal.

    Args:
        title: what was reproduced.
        judged: its claims and observations.

    Returns:
        A `rich.table.Table`.

    Raises:
        ImportError: rich is not installed (the extra "run").

    Example:
        >>> seen = Observation(source="Fig. 1", statement="it grows", seen="it does")
        >>> claims_table("growth", [seen]).row_count
        1
    """
    module = import_extra("rich.table", extra="run", purpose="the table of claims")
    box = import_extra("rich.box", extra="run", purpose="the table of claims").SIMPLE_HEAD
    text = import_extra("rich.text", extra="run", purpose="the table of claims").Text
    table = module.Table(title=title, title_justify="left", title_style="bold", box=box)
    table.show_lines, table.pad_edge = True, False
    for heading, ratio in (("", 2), ("the paper", 5), ("here", 6), ("region", 2), ("", 2)):
        table.add_column(heading, ratio=ratio)
    for entry in judged:
        if isinstance(entry, Claim):
            verdict = text(entry.verdict, style=STYLES[entry.verdict])
            here = f"{entry.quantity}: {_measured(entry)}"
            table.add_row(entry.source, text(entry.statement), text(here), entry.region, verdict)
        else:
            seen = text("drawn, not judged", style="dim")
            table.add_row(entry.source, text(entry.statement), text(entry.seen), "", seen)
    return table


def claims_markdown(title: str, judged: Sequence[Claim | Observation]) -> str:
    r"""Return the claims and observations as Markdown.

    Args:
        title: what was reproduced.
        judged: its claims and observations.

    Returns:
        A document with a table of each.

    Example:
        >>> seen = Observation(source="Fig. 1", statement="a|b", seen="1")
        >>> print(claims_markdown("growth", [seen]).splitlines()[-1])
        | Fig. 1 | a\|b | 1 |
    """
    claims = [entry for entry in judged if isinstance(entry, Claim)]
    observations = [entry for entry in judged if isinstance(entry, Observation)]
    lines = [f"# {title}", "", HOW, ""]
    if claims:
        lines += _table(
            ("source", "the paper", "what is estimated", "here", "region", "verdict"),
            [
                (
                    claim.source,
                    claim.statement,
                    f"{claim.quantity}. {claim.note}" if claim.note else claim.quantity,
                    _measured(claim),
                    claim.region,
                    f"**{claim.verdict}**",
                )
                for claim in claims
            ],
        )
    if observations:
        lines += ["", "Drawn, and not judged:", ""]
        rows = [(entry.source, entry.statement, entry.seen) for entry in observations]
        lines += _table(("source", "the paper", "here"), rows)
    return "\n".join(lines) + "\n"


def claims_json(judged: Sequence[Claim | Observation]) -> dict[str, list[dict[str, Any]]]:
    """Return the claims and observations as JSON values; None for what is infinite or unknown.

    Example:
        >>> claims_json([Observation(source="Fig. 1", statement="it grows", seen="it does")])
        {'claims': [], 'observations': [{'source': 'Fig. 1', 'statement': ..., 'seen': 'it does'}]}
    """
    return {
        "claims": [_claim_json(entry) for entry in judged if isinstance(entry, Claim)],
        "observations": [
            {"source": entry.source, "statement": entry.statement, "seen": entry.seen}
            for entry in judged
            if isinstance(entry, Observation)
        ],
    }


def _claim_json(claim: Claim) -> dict[str, Any]:
    return {
        "source": claim.source,
        "statement": claim.statement,
        "quantity": claim.quantity,
        "verdict": claim.verdict,
        "findings": [
            {
                "what": finding.what,
                "value": _number(finding.estimate.value),
                "interval": [_number(end) for end in finding.interval],
                "region": [_number(end) for end in finding.region],
            }
            for finding in claim.findings
        ],
        "needs": [{"what": str(need), "met": bool(need.met)} for need in claim.needs],
        "note": claim.note,
    }


def _measured(claim: Claim) -> str:
    """The estimates, and what the set-up lacks."""
    lacks = "; ".join(str(need) for need in claim.missing)
    return f"{claim.measured}. Lacks: {lacks}" if lacks else claim.measured


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [headings, ("---",) * len(headings)]
    cells += [tuple(" ".join(cell.replace("|", "\\|").split()) for cell in row) for row in rows]
    return [f"| {' | '.join(row)} |" for row in cells]
