"""Records of ``llm-shares-v1``: a closed window as JSON, see ``schemas/share_window/v1.json``."""

from typing import Any

from schemas.panes import MEASURES
from streams.windows import DENOMINATORS, Window

VERSION = 1
SHARES = ("requests", "tokens", "cost")


def key(window: Window) -> bytes:
    """Return the key of a window's record: its revisions replace each other."""
    return f"{window.dimension}/{window.size.length_ms // 1000}/{window.end_ms}".encode()


def as_record(window: Window, *, watermark_ms: int, given_ms: int) -> dict[str, Any]:
    """Return a window as it is published and stored.

    Args:
        window: The window.
        watermark_ms: As it was when the window was given out, epoch milliseconds.
        given_ms: When that was, epoch milliseconds.
    """
    columns = {name: window.measures[:, at].tolist() for at, name in enumerate(MEASURES)}
    shares = {
        f"share_{name}_billionths": window.shares[:, at].tolist() for at, name in enumerate(SHARES)
    }
    before = window.previous
    previous: dict[str, list[int | None]] = {
        f"previous_{name}_billionths": (
            []
            if before is None
            else [None if each < 0 else each for each in before[:, at].tolist()]
        )
        for at, name in enumerate(SHARES)
    }
    return {
        "version": VERSION,
        "dimension": window.dimension,
        "window_seconds": window.size.length_ms // 1000,
        "window_end_ms": window.end_ms,
        "revision": window.revision,
        "is_complete": window.is_complete,
        "watermark_ms": watermark_ms,
        "given_ms": given_ms,
        **{f"{name}_total": window.totals[name] for name in DENOMINATORS},
        "values": list(window.values),
        **columns,
        "users": window.users.tolist(),
        **shares,
        **previous,
    }
