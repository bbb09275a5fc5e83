"""How documents fill sequences: which pieces stand in which sequence, a block of sequences at a time.

    arranged documents of each component -> concat | best_fit -> pieces, in the order of the sequences -> plan

Both shuffle a component's sequences, unless a stage gives the order, interleave the components so that after every sequence each is within
one sequence of its share of the tokens so far, and yield whole sequences. They differ in what they cut:

- concat lays a component's documents end to end and cuts at sequence ends. No place is empty but in the last sequence of an
  epoch; most sequences begin and end within a document.
- best_fit cuts only documents that are longer than a sequence, and packs pieces by best fit decreasing, as in Ding et al.,
  Fewer truncations improve language modeling (2024, arXiv 2404.10830). What it pays: places that stay empty at sequence ends. It
  packs within windows of some 1,024 sequences of a component, so memory is bounded and the order stays shuffled.

Shuffles are within a block of concat and a window of best_fit.

A new packing is one function and one row of PACKINGS. Memory: 16 bytes a document, and a block or a window of pieces.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from train.assemble import Ints, jit
from train.shuffle import shuffled

_BLOCK_ROWS = 131_072
_WINDOW_SEQUENCES = 1024
_WINDOW_DOCUMENTS = 262_144


@dataclasses.dataclass(frozen=True, slots=True)
class Arranged:
    """A component's documents in the order in which an epoch takes them, and the tokens that it takes of each.

    `salt` shuffles the sequences that they fill, so that a long document is not all there is in a step; without one the order is
    that of the documents.
    """

    ordinal: Ints
    n_tokens: Ints
    salt: np.uint64 | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces in the order of the stream: `sequence` counts from the first one of the epoch, `start` and `length` are in tokens."""

    sequence: Ints
    ordinal: Ints
    start: Ints
    length: Ints


@dataclasses.dataclass(frozen=True, slots=True)
class _Window:
    """Packed sequences of one component: sequence b holds the pieces from at[b] to at[b + 1], `filled` tokens in all."""

    at: Ints
    filled: Ints
    ordinal: Ints
    start: Ints
    length: Ints


def concat(parts: Sequence[Arranged], seq_len: int, block_rows: int = _BLOCK_ROWS) -> Iterator[Pieces]:
    """Lay documents end to end and cut them at sequence ends; nothing is lost and nothing stays empty but at the very end.

    Sequences are shuffled within a block.
    """
    ends = [np.cumsum(part.n_tokens) for part in parts]
    totals = np.array([end[-1] if len(end) else 0 for end in ends], dtype=np.int64)
    n_sequences = -(-int(totals.sum()) // seq_len)
    n_rows = n_sequences + sum(len(part.ordinal) for part in parts)
    per_block = max(block_rows * n_sequences // max(n_rows, 1), 1)
    given = np.zeros(len(parts), dtype=np.int64)
    for first in range(0, n_sequences, per_block):
        sequence, component, start = _deal(totals, given, seq_len, first, min(per_block, n_sequences - first))
        found = []
        for code, part in enumerate(parts):
            runs = np.flatnonzero(component == code)
            run, document, begin, length = _cut(ends[code], start[runs], int(given[code]))
            found.append(np.stack([runs[run], part.ordinal[document], begin, length]))
        # Runs are numbered in the order of the stream and a component's pieces are in order within each.
        run, ordinal, begin, length = _in_order(found)
        place = _shuffle(sequence, component, [part.salt for part in parts], first)[run]
        order = np.argsort(place, kind="stable")
        yield Pieces(place[order], ordinal[order], begin[order], length[order])


def best_fit(parts: Sequence[Arranged], seq_len: int, window: int = _WINDOW_SEQUENCES) -> Iterator[Pieces]:
    """Pack documents whole, longer ones cut into sequences and a rest; each sequence is of one component."""
    totals = np.array([part.n_tokens.sum() for part in parts], dtype=np.int64)
    windows = [_windows(part, seq_len, window) for part in parts]
    given, at = (np.zeros(len(parts), dtype=np.int64) for _ in range(2))
    packed: list[_Window | None] = [None] * len(parts)
    first = 0
    while (given < totals).any():
        for code, current in enumerate(packed):
            if given[code] < totals[code] and (current is None or at[code] == len(current.filled)):
                packed[code], at[code] = next(windows[code]), 0
        sizes = [np.empty(0, np.int64) if each is None else each.filled for each in packed]
        bounds = np.cumsum([0, *map(len, sizes)])
        before = at.copy()
        component = _deal_packed(totals, given, np.concatenate(sizes), bounds, at)
        found = [
            _pieces_of(each, int(before[code]), int(at[code]), first + np.flatnonzero(component == code))
            for code, each in enumerate(packed)
            if each is not None
        ]
        yield Pieces(*_in_order(found))
        first += len(component)


PACKINGS: Mapping[str, Callable[[Sequence[Arranged], int], Iterator[Pieces]]] = {"concat": concat, "best_fit": best_fit}


def count_packed(parts: Sequence[Arranged], seq_len: int, window: int = _WINDOW_SEQUENCES) -> int:
    """Count the sequences that `best_fit` fills."""
    return sum(len(packed.filled) for part in parts for packed in _windows(part, seq_len, window))


def _shuffle(sequence: Ints, component: Ints, salts: Sequence[np.uint64 | None], first: int) -> Ints:
    """Give each run of a block its sequence after the shuffle: sequences of one run change places with others of their component, the
    last one and those of several components stay."""
    place = sequence.copy()
    is_alone = np.bincount(sequence - first)[sequence - first] == 1
    is_alone[-1] = False
    for code, salt in enumerate(salts):
        if salt is not None:
            runs = np.flatnonzero(is_alone & (component == code))
            place[runs[shuffled(first, len(runs), salt)]] = sequence[runs]
    return place


def _in_order(found: list[Ints]) -> Ints:
    """Merge the rows of components by their first column, which each component has in order."""
    merged = np.concatenate(found, axis=1)
    ordered: Ints = merged[:, np.argsort(merged[0], kind="stable")]
    return ordered


def _cut(ends: Ints, run_starts: Ints, stop: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut a component's documents, laid end to end, where a run starts: (run, document, start, length) of each piece.

    `ends` are of all its documents; the runs follow on each other up to token `stop`.
    """
    if not len(run_starts):
        return (np.empty(0, np.int64),) * 4
    first = int(np.searchsorted(ends, run_starts[0], side="right"))
    last = int(np.searchsorted(ends, stop)) + 1
    starts = np.concatenate([ends[first - 1 : first] if first else np.zeros(1, np.int64), ends[first : last - 1]])
    cuts = np.unique(np.concatenate([starts[1:], run_starts]))
    document = np.searchsorted(ends[first:last], cuts, side="right")
    run = np.searchsorted(run_starts, cuts, side="right") - 1
    return run, first + document, cuts - starts[document], np.diff(cuts, append=stop)


def _windows(part: Arranged, seq_len: int, window: int) -> Iterator[_Window]:
    """Pack a component's documents, window by window."""
    ends = np.cumsum(part.n_tokens)
    first = 0
    while first < len(ends):
        enough = (int(ends[first - 1]) if first else 0) + window * seq_len
        last = min(int(np.searchsorted(ends, enough)) + 1, first + _WINDOW_DOCUMENTS, len(ends))
        yield _pack(Arranged(part.ordinal[first:last], part.n_tokens[first:last], part.salt), seq_len, first)
        first = last


def _pack(part: Arranged, seq_len: int, first: int) -> _Window:
    """Pack documents, of which the first is the component's number `first`, into as few sequences as best fit decreasing finds.

    Sequences are shuffled, or come in the order of their longest pieces; pieces within them in the order of the documents.
    """
    ordinal, n_tokens = part.ordinal, part.n_tokens
    n_pieces = -(-n_tokens // seq_len)
    document = np.repeat(np.arange(len(n_tokens)), n_pieces)
    start = seq_len * (np.arange(len(document)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces))
    length = np.minimum(n_tokens[document] - start, seq_len)
    longest_first = np.argsort(-length, kind="stable")
    bins = _best_fit(length[longest_first], seq_len)
    _, opens = np.unique(bins, return_index=True)
    place = np.empty(len(opens), dtype=np.int64)
    order = np.argsort(longest_first[opens]) if part.salt is None else shuffled(first, len(opens), part.salt)
    place[order] = np.arange(len(opens))
    sequence = np.empty(len(bins), dtype=np.int64)
    sequence[longest_first] = place[bins]
    order = np.argsort(sequence, kind="stable")
    at = np.searchsorted(sequence[order], np.arange(len(opens) + 1))
    filled = np.bincount(sequence, length, len(opens)).astype(np.int64)
    return _Window(at, filled, ordinal[document[order]], start[order], length[order])


def _pieces_of(packed: _Window, first: int, last: int, sequence: Ints) -> Ints:
    """Give the pieces of packed sequences first to last, which are now called `sequence`, as rows of Pieces."""
    here = slice(packed.at[first], packed.at[last])
    named = np.repeat(sequence, np.diff(packed.at[first : last + 1]))
    return np.stack([named, packed.ordinal[here], packed.start[here], packed.length[here]])


@jit
def _best_fit(length: Ints, seq_len: int) -> Ints:
    """Put each piece, longest first, into the fullest sequence that has room for it, else into a new one; gives its sequence.

    A binary tree over amounts of room says which amounts some sequence has, so a piece costs O(log seq_len).
    """
    n_leaves = 1
    while n_leaves <= seq_len:
        n_leaves *= 2
    has_room = np.zeros(2 * n_leaves, dtype=np.bool_)
    newest = np.full(seq_len + 1, -1, dtype=np.int64)  # the sequences of one room are a linked list
    older = np.full(len(length), -1, dtype=np.int64)
    found = np.empty(len(length), dtype=np.int64)
    n_bins = 0
    for piece in range(len(length)):
        node = n_leaves + length[piece]
        if not has_room[node]:
            # The next larger room: up until a right neighbour has some.
            while node > 1 and not (node % 2 == 0 and has_room[node + 1]):
                node //= 2
            node += node > 1
        if node == 1:
            chosen, room = n_bins, seq_len
            n_bins += 1
        else:
            while node < n_leaves:
                node = 2 * node if has_room[2 * node] else 2 * node + 1
            room = node - n_leaves
            chosen = newest[room]
            newest[room] = older[chosen]
            if newest[room] < 0:
                has_room[node] = False
                node //= 2
                while node >= 1 and not (has_room[2 * node] or has_room[2 * node + 1]):
                    has_room[node] = False
                    node //= 2
        found[piece] = chosen
        room -= length[piece]
        if room > 0:
            older[chosen] = newest[room]
            newest[room] = chosen
            node = n_leaves + room
            while node >= 1 and not has_room[node]:
                has_room[node] = True
                node //= 2
    return found


@jit
def _deal(n_tokens: Ints, given: Ints, seq_len: int, first: int, n: int) -> tuple[Ints, Ints, Ints]:
    """Give each of n sequences to a component, in turn: (sequence, component, start in the component) of each run. Moves `given` on.

    By Tijdeman's rule (The chairman assignment problem, Discrete Mathematics 32, 1980): of the components that are due
    by at least 1 / (2k - 2) of a sequence, the one that would first fall a sequence behind. Taking the largest
    deficit can be off by more than a sequence. Where a component runs out within a sequence, the
    next one fills it up, so only the last sequence of an epoch can be short.
    """
    k = len(n_tokens)
    total = n_tokens.sum()
    runs = np.zeros((3, n + k), dtype=np.int64)
    n_runs = 0
    due = seq_len / max(2 * k - 2, 1)
    for sequence in range(first, first + n):
        end = min((sequence + 1) * seq_len, total)
        room = end - sequence * seq_len
        while room > 0:
            best, best_deadline, neediest, largest = -1, 0.0, -1, 0.0
            for c in range(k):
                if given[c] == n_tokens[c]:
                    continue
                share = n_tokens[c] / total
                deficit = share * end - given[c]
                deadline = (given[c] + seq_len - due) / share
                if deficit >= due and (best < 0 or deadline < best_deadline):
                    best, best_deadline = c, deadline
                if neediest < 0 or deficit > largest:
                    neediest, largest = c, deficit
            chosen = best if best >= 0 else neediest
            take = min(room, n_tokens[chosen] - given[chosen])
            runs[0, n_runs], runs[1, n_runs], runs[2, n_runs] = sequence, chosen, given[chosen]
            given[chosen] += take
            room -= take
            n_runs += 1
    return runs[0, :n_runs], runs[1, :n_runs], runs[2, :n_runs]


@jit
def _deal_packed(n_tokens: Ints, given: Ints, sizes: Ints, bounds: Ints, at: Ints) -> Ints:
    """Give sequences of known sizes to components, until one that has more has none at hand. Moves `given` and `at` on.

    Gives the component of each. Component c has the sizes from bounds[c] to bounds[c + 1] at hand and is at at[c] of them. By
    WF2Q (Bennett and Zhang, WF2Q: worst-case fair weighted fair queueing, INFOCOM 1996): of the components that are not ahead
    of their share, the one whose next sequence would be through first if all were served at once. So none is ever more than one
    sequence from its share.
    """
    k = len(n_tokens)
    total = n_tokens.sum()
    dealt = given.sum()
    chosen_of = np.empty(len(sizes), dtype=np.int64)
    n = 0
    while dealt < total:
        best, best_finish, neediest, largest = -1, 0.0, -1, 0.0
        for c in range(k):
            if given[c] == n_tokens[c]:
                continue
            if bounds[c] + at[c] == bounds[c + 1]:
                return chosen_of[:n]
            share = n_tokens[c] / total
            deficit = share * dealt - given[c]
            finish = (given[c] + sizes[bounds[c] + at[c]]) / share
            if deficit >= 0 and (best < 0 or finish < best_finish):
                best, best_finish = c, finish
            if neediest < 0 or deficit > largest:
                neediest, largest = c, deficit
        # Someone is always due, but for the last bit of a rounded product.
        chosen = best if best >= 0 else neediest
        size = sizes[bounds[chosen] + at[chosen]]
        given[chosen] += size
        dealt += size
        at[chosen] += 1
        chosen_of[n] = chosen
        n += 1
    return chosen_of[:n]
