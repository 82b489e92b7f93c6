"""What belongs to what in a market: a change is told once, where it comes from."""

from collections.abc import Callable, Collection
from dataclasses import dataclass


def _nothing(_: str) -> str:
    return ""


def _none(_: str) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Relations:
    """What is known of vendors and models.

    Attributes:
        vendor_of_model: Vendor of a model, empty if unknown: a vendor's alert silences its models'.
        origins_of_vendor: Origin groups of a vendor's models: its alert silences theirs.
    """

    vendor_of_model: Callable[[str], str] = _nothing
    origins_of_vendor: Callable[[str], Collection[str]] = _none
