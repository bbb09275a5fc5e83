"""What a document says, shortly: excerpts of texts for the page of a version.

Stands under `page_rules` and `page_copies`. Decision: what a mask hides from training, a page that people pass around does not show either.
Cost: a row group of a shard for each excerpt's row; nothing is read but the rows that are asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curate.store import Store
from curate.tokens import Mask, cut_text

N_CHARS = 600


def read_texts(store: Store, rows: Sequence[Mapping[str, Any]], remarks: list[str]) -> dict[str, str]:
    """Read the texts of rows (row_id, shard, row, masks), by row_id, as training reads them: masked spans are left out or replaced.

    A shard that is missing or damaged is said in `remarks`, and its rows are left out.
    """
    found: dict[str, str] = {}
    for shard in sorted({row["shard"] for row in rows}):
        here = {row["row"]: row for row in rows if row["shard"] == shard}
        try:
            texts = store.read_rows(f"corpus/{shard}", sorted(here), ["text"])["text"].to_pylist()
        except FileNotFoundError:
            remarks.append(f"corpus/{shard} is missing, so its texts are not shown; restore it, or build again")
        except (OSError, pa.ArrowException) as error:
            remarks.append(f"corpus/{shard} is damaged ({' '.join(str(error).split())}), so its texts are not shown")
        else:
            by_place = dict(zip(sorted(here), texts, strict=True))
            found |= {row["row_id"]: _read(by_place[row["row"]], row["masks"]) for row in rows if row["shard"] == shard}
    return found


def excerpt(text: str) -> str:
    """Give the first 600 characters, with its lines but not the empty ones.

    >>> excerpt("A  title\\n\\nand a text")
    'A title\\nand a text'
    """
    lines = (" ".join(line.split()) for line in text[: 2 * N_CHARS].split("\n"))
    short = "\n".join(line for line in lines if line)
    return f"{short[:N_CHARS].rstrip()} ..." if len(short) > N_CHARS or len(text) > 2 * N_CHARS else short


def _read(text: str, masks: Sequence[Mask]) -> str:
    return "".join(piece for piece, _ in cut_text(text, masks))
