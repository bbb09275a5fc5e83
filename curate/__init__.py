"""Decisions about a corpus: from raw sources to a versioned manifest. `curate.connect(root)` opens it for SQL."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported on use: training imports this package too, and needs neither SQL nor the families.
    if name == "connect":
        from curate.sql import connect

        return connect
    raise AttributeError(f"module 'curate' has no attribute {name!r}")
