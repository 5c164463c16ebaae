"""What a trained network looks like at one point: all that is measured, in one report."""

from lnpjax.inspection._folder import inspect_into, read_inspection
from lnpjax.inspection._inspect import Outcome, inspect_network
from lnpjax.inspection._parts import PARTS, Findings, Part
from lnpjax.inspection._reports import inspection_report
from lnpjax.inspection._run_report import run_report
from lnpjax.inspection._subject import InspectionOptions, Subject
from lnpjax.inspection._tables import Table, tables_of

__all__ = [
    # what is inspected
    "Subject",
    "InspectionOptions",
    # measuring
    "inspect_network",
    "Outcome",
    "Findings",
    "PARTS",
    "Part",
    # what is kept and shown
    "inspect_into",
    "read_inspection",
    "Table",
    "tables_of",
    "inspection_report",
    "run_report",
]
