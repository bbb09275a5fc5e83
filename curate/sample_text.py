"""Templates of the sample corpus, all of our own, and how texts are composed from them.

Used by curate.sample alone. A template is a sentence with slots; a slot takes an option of that name, which may hold slots again. Facts
hang together (a disease has its organ, symptoms, drugs, marker), so that a tiny model has something to learn; they are no medical advice.
Decision: every choice is a hash of (key, slot), never a generator's state, so a text depends on its key alone, at one hash per slot.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import blake2b
from math import gcd

from curate.sample_words import DISEASES, GRAMMAR, TOPIC_TABLE

Words = Mapping[str, tuple[str, ...]]

TOPICS = ("medicine", "cooking", "sport", "cars", "computing", "gardening", "music")
JUNK = ("hashes", "symbols", "bullets", "ellipses", "short", "word_list")
LANGUAGES = ("de", "fr", "es")
_ARTICLE_KINDS = ("town", "river", "animal", "plant", "composer", "mineral")

# Slot, fewest and most sentences of each paragraph; `title` is a line without a full stop.
_PLANS = {
    "trial": "title:1:1 background:4:7 methods:5:8 results:6:9 discussion:4:8",
    "case": "title:1:1 background:2:4 presentation:3:6 investigation:3:5 therapy:3:5 outcome:2:4 discussion:3:6",
    "review": "title:1:1 definition:4:6 background:3:7 investigation:2:4 guideline:3:7 therapy:2:4 discussion:2:5",
    "textbook": "definition:4:6 background:3:6 therapy:2:3 guideline:4:8",
    "soap": "presentation:3:6 investigation:2:4 therapy:2:4 outcome:1:3 guideline:1:2",
    "forum": "opening:1:2 talk:5:8 closing:1:1",
    "page": "opening_page:1:2 advice:4:6 talk:2:4 advice:3:6",
    "news": "news:3:5 advice:2:4 news:2:4 talk:1:2",
    "town": "town:5:8 history:3:6 town:2:4",
    "river": "river:4:7 history:3:6",
    "animal": "animal:5:8 science:3:5",
    "plant": "plant:5:8 science:3:5",
    "composer": "composer:5:7 history:3:5",
    "mineral": "mineral:5:7 science:3:5",
    "chapter": "scene:5:9 speech:3:5 scene:4:7 speech:2:5",
    "de": "de:6:9",
    "fr": "fr:6:9",
    "es": "es:6:9",
}
_STUFFING = ("perhaps", "local", "certain", "early", "nearly", "rather", "former", "several", "special", "partly")
_HAS_LINKS = ("background", "results", "discussion", "therapy", "outcome")
_ARTICLE = re.compile(r"([Aa])(?<!\w[Aa]) (?=[aeiou](?!ni|se|ro))")
_SLOT = re.compile(r"\{([^{}]+)\}")


def draw(n: int, *key: object) -> int:
    """Return a number in [0, n) that depends on the key alone."""
    return _draw(n, "/".join(map(str, key)))


def _draw(n: int, key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % n


def fill(frame: str, words: Words, key: str) -> str:
    """Fill every slot of a frame.

    `{name}` takes any option, `{name#0}` and `{name#1}` take different ones, `{num:LOW:HIGH}` a number with as many decimals as LOW.
    """
    parts = []
    for before, place, name, number in _parts(frame):
        parts.append(before)
        slot_key = f"{key}/{place}"
        if name.startswith("num:"):
            parts.append(_number(name, slot_key))
        elif name:
            options = words[name]
            index = _draw(len(options), slot_key) if number is None else _draw(len(options), f"{key}/{name}") + number
            option = options[index % len(options)]
            parts.append(fill(option, words, slot_key) if "{" in option else option)
    return "".join(parts)


@cache
def _parts(frame: str) -> list[tuple[str, int, str, int | None]]:
    """Cut a frame at its slots: the text before each, its place, name and number; behind the last slot one without a name."""
    parts: list[tuple[str, int, str, int | None]] = []
    end = 0
    for slot in _SLOT.finditer(frame):
        name, _, number = slot[1].partition("#")
        parts.append((frame[end : slot.start()], slot.start(), name, int(number) if number else None))
        end = slot.end()
    return [*parts, (frame[end:], end, "", None)]


@cache
def grammar() -> Words:
    """Return every slot with its options."""
    entries = (line.partition(":") for line in re.sub(r"\n +", " ", GRAMMAR).strip().splitlines())
    return {name: tuple(options.strip().split(" | ")) for name, _, options in entries}


def disease_words(index: int) -> Words:
    """Return the grammar with the facts of one disease; the index wraps around."""
    rows = _rows(DISEASES)
    slots = ("disease", "organ", "field", "symptom", "dose", "test", "marker", "risk", "complication", "mechanism")
    facts = dict(zip(slots, rows[index % len(rows)], strict=True))
    marker, low, high, unit = facts["marker"]
    drugs = tuple(dose.rsplit(" ", 2)[0] for dose in facts["dose"])
    facts |= {"marker": (marker,), "value": (f"{{num:{low}:{high}}} {unit}",), "disease2": rows[(index + 7) % len(rows)][0]}
    return {**grammar(), **facts, "drug": drugs, "drug1": drugs[:1]}


def topic_words(topic: str, index: int) -> Words:
    """Return the grammar with a topic's vocabulary; the index chooses the disease that medicine talks about."""
    row = next(row for row in _rows(TOPIC_TABLE) if row[0] == (topic,))
    words = disease_words(index) if topic == "medicine" else grammar()
    return {**words, **dict(zip(("thing", "problem", "action", "tool", "result"), row[1:], strict=True))}


def subject_words(key: str) -> Words:
    """Return the grammar with one invented subject and two people, the same throughout a text."""
    words = grammar()
    people = words["first"]
    hero = draw(len(people), key, "hero")
    return {**words, "subject": (fill("{name}", words, key),), "hero": (people[hero],), "friend": (people[hero - 1],)}


def compose(plan: str, words: Words, key: str) -> str:
    """Write one paragraph for each step of a plan."""
    parts = []
    for number, step in enumerate(_PLANS[plan].split()):
        slot, low, high = step.split(":")
        n_sentences = int(low) + draw(int(high) - int(low) + 1, key, number, "length")
        parts.append(" ".join(sentences(slot, n_sentences, words, f"{key}/{number}")))
    return "\n\n".join(parts)


def sentences(slot: str, n_sentences: int, words: Words, key: str) -> Iterator[str]:
    """Yield sentences from frames that all differ; fewer where the slot has not enough."""
    frames = words[slot]
    start = draw(len(frames), key, "start")
    stride = next(stride for stride in range(1 + draw(len(frames), key, "stride"), 99) if gcd(stride, len(frames)) == 1)
    for number in range(min(n_sentences, len(frames))):
        has_link = number > 0 and slot in _HAS_LINKS and _draw(5, f"{key}/{number}/link") == 0
        frame = "{link} " * has_link + frames[(start + number * stride) % len(frames)]
        sentence = _finish(fill(frame, words, f"{key}/{number}"))
        yield sentence.rstrip(".") if slot == "title" else sentence


def dialogue(words: Words, key: str) -> str:
    """Write a talk between doctor and patient, a line for each turn."""
    turns = words["turn"]
    n_left_out = 1 + draw(5, key, "length")
    left_out = {draw(len(turns), key, number, "left out") for number in range(n_left_out)}
    lines = []
    for number, turn in enumerate(turns):
        if number not in left_out:
            question, answer = fill(turn, words, f"{key}/{number}").split(" / ")
            lines += [f"Doctor: {_finish(question)}", f"Patient: {_finish(answer)}"]
    return "\n".join(lines)


def topic_of(source: str, index: int) -> str:
    """Return medicine for a third of the threads and half of the pages, the other topics in turn."""
    number, every = (index // 4, 3) if source == "forum" else (index, 2)
    return "medicine" if number % every == 0 else TOPICS[1 + (number - number // every) % (len(TOPICS) - 1)]


def source_text(source: str, index: int, key: str) -> str:
    """Write the ordinary document number `index` of a source."""
    any_disease = draw(1000, key, "disease")
    if source == "papers":
        return compose(("trial", "case", "review")[index % 3], disease_words(any_disease), key)
    if source == "notes":
        words = disease_words(any_disease)
        return dialogue(words, key) if index % 2 else compose("soap", words, key)
    if source == "forum":
        return compose("forum", topic_words(topic_of(source, index), index // 4), key)
    if source == "web":
        return compose("page", topic_words(topic_of(source, index), any_disease), key)
    if source == "reference":
        return compose("textbook", disease_words(any_disease), key)
    if source == "general":
        return compose("news" if index % 3 else "page", topic_words(TOPICS[1 + index % (len(TOPICS) - 1)], 0), key)
    return compose(_ARTICLE_KINDS[index % 6], subject_words(key), key) if source == "encyclopedia" else _book(key)


def nearly(text: str, key: str) -> str:
    """Replace one word in a hundred, at least one."""
    words = list(re.finditer(r"\b[a-z]{4,}\b", text))
    chosen = {draw(len(words), key, number) for number in range(1 + len(text.split()) // 100)}
    for number in sorted(chosen, reverse=True):
        other = next(word for word in _STUFFING[draw(len(_STUFFING), key, number, "word") :] + _STUFFING if word != words[number][0])
        text = text[: words[number].start()] + other + text[words[number].end() :]
    return text


def junk(kind: str, key: str) -> str:
    """Write a text that one of the Gopher rules rejects (arXiv 2112.11446, table A1)."""
    words = topic_words("cooking", 0)
    lines = [line for part in ("talk", "advice") for line in sentences(part, 9, words, f"{key}/{part}")]
    if kind == "hashes":
        return re.sub(r"(\S+ \S+) ", r"\1 # ", " ".join(lines))
    if kind == "symbols":
        return "\n".join(
            f"{line.split()[0]} the of {draw(9999, key, n)} %% {draw(99, key, n, 1)}; <<{n}>> == 0.{n}" for n, line in enumerate(lines)
        )
    if kind == "bullets":
        return "\n".join(f"- {line}" for line in lines)
    if kind == "ellipses":
        return "\n".join(line.rstrip(".?") + "..." for line in lines)
    if kind == "short":
        return " ".join(lines[:2])
    stock = [word for slot in ("thing", "tool", "object", "trade") for option in words[slot] for word in re.findall(r"[a-z]{4,}", option)]
    return " ".join(word for n in range(90) if (word := stock[draw(len(stock), key, n)]) not in ("that", "have", "with"))


def _book(key: str) -> str:
    words = subject_words(key)
    min_words = 1500 + draw(1100, key, "length")
    text, number = "", 0
    while len(text.split()) < min_words:
        number += 1
        text += f"Chapter {number}\n\n{compose('chapter', words, f'{key}/{number}')}\n\n"
    return text.rstrip()


def _finish(text: str) -> str:
    """Make a filled frame a sentence: capital letter, `an` for `a`, full stop."""
    at = 1 if text.startswith('"') else 0
    text = _ARTICLE.sub(r"\1n ", text[:at] + text[at].upper() + text[at + 1 :])
    return text if text.endswith((".", "?", '?"')) else text + "."


@cache
def _rows(table: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    lines = re.sub(r"\n +", " ", table).strip().splitlines()
    return tuple(tuple(tuple(part.strip() for part in cell.split(";")) for cell in line.split("|")) for line in lines)


def _number(slot: str, key: str) -> str:
    _, low, high = slot.split(":")
    n_decimals = len(low.partition(".")[2])
    scale = 10**n_decimals
    number = round(float(low) * scale) + _draw(round((float(high) - float(low)) * scale) + 1, key)
    return f"{number / scale:.{n_decimals}f}"
