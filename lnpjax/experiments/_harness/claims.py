"""What a paper claims beside what was measured here, and whether it holds by a stated rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lnpjax._base.checks import import_extra

if TYPE_CHECKING:
    from rich.table import Table


Verdict = Literal["holds", "does not hold", "cannot tell"]
_STYLES = {"holds": "green", "does not hold": "red", "cannot tell": "yellow"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper and its fate.

    Attributes:
        source: where the paper says it, as "Fig. 4a".
        statement: what it says, in one sentence.
        measured: what was found, in numbers.
        verdict: what `rule` makes of `measured`.
        rule: when the claim holds, when it does not, and when neither can be said; numbers that
            were fixed before the measurement.
    """

    source: str
    statement: str
    measured: str
    verdict: Verdict
    rule: str


def decide(holds: bool, *, known: bool = True) -> Verdict:
    """The verdict on a condition, or "cannot tell" where what it needs was not measured.

    Args:
        holds: the condition.
        known: whether there is enough to judge it.

    Returns:
        The verdict.

    Example:
        >>> decide(1 > 2), decide(1 > 2, known=False)
        ('does not hold', 'cannot tell')
    """
    if not known:
        return "cannot tell"
    return "holds" if holds else "does not hold"


def claims_table(title: str, claims: Sequence[Claim]) -> Table:
    """The claims as a table for a terminal.

    Args:
        title: what was reproduced.
        claims: its claims.

    Returns:
        A `rich.table.Table`.

    Raises:
        ImportError: rich is not installed (the extra "run").

    Example:
        >>> claim = Claim(source="Fig. 1", statement="it grows", measured="x 3", verdict="holds",
        ...               rule="the last value exceeds the first")
        >>> claims_table("growth", [claim]).row_count
        1
    """
    module = import_extra("rich.table", extra="run", purpose="the table of claims")
    box = import_extra("rich.box", extra="run", purpose="the table of claims").SIMPLE_HEAD
    text = import_extra("rich.text", extra="run", purpose="the table of claims").Text
    table = module.Table(title=title, title_justify="left", title_style="bold", box=box)
    table.show_lines, table.pad_edge = True, False
    table.add_column("", no_wrap=True)
    table.add_column("the paper", ratio=5)
    table.add_column("here", ratio=6)
    table.add_column("", no_wrap=True)
    for claim in claims:
        verdict = text(claim.verdict, style=_STYLES[claim.verdict])
        table.add_row(claim.source, text(claim.statement), text(claim.measured), verdict)
    return table


def claims_markdown(title: str, claims: Sequence[Claim]) -> str:
    r"""The claims, with the rules that judged them, as Markdown.

    Args:
        title: what was reproduced.
        claims: its claims.

    Returns:
        A document with a table.

    Example:
        >>> claim = Claim(source="Fig. 1", statement="a|b", measured="1", verdict="holds",
        ...               rule="-")
        >>> print(claims_markdown("growth", [claim]).splitlines()[-1])
        | Fig. 1 | a\|b | 1 | **holds** | - |
    """
    headings = ("source", "the paper", "measured here", "verdict", "rule")
    rows = [headings, ("---",) * len(headings)]
    for claim in claims:
        cells = (claim.source, claim.statement, claim.measured, f"**{claim.verdict}**", claim.rule)
        rows.append(tuple(" ".join(cell.replace("|", "\\|").split()) for cell in cells))
    return "\n".join([f"# {title}", "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
