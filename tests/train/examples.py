"""How many examples a property is tried on: a third of them in `make test`, all in `make test-all`."""

import os


def examples(n: int) -> int:
    return n if os.environ.get("THOROUGH") else n // 3
