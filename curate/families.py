"""Families as facts: the shipped ones, and those that a recipe brings along as a file, a function or a filter of datatrove's.

Stands between the recipe and annotate. An own family is a family like any other: its signals are columns, its rules judge, a changed
threshold recomputes nothing. What a shipped family says by its version an own one says by its code: the bytes of its source file name
its signals, so that a changed file computes this family again and no other. The bytes that are named are the bytes that are run, also
where an older version of the file is loaded already. Cost: what a file imports is not in its digest, and a function that gets one
document at a time is up to forty times slower than columns (docs/filters.md), which each shard reports.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pathlib
import re
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from curate.annotate import SIGNAL_TYPES, Facts, family_facts, signals_schema
from curate.recipe import DomainError, OwnFamily
from curate.store import digest_of
from filters import CORPUS_FAMILIES, family
from filters.columns import TextBatch
from filters.spec import Family, Rule, Signal

_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_FILTERS = "datatrove.pipeline.filters"
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
# Raised whenever the functions below give other signals for the same code.
_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Loaded:
    """An own family in this process. `kind` is family, function or datatrove; the last two see one document at a time."""

    family: Family
    kind: str
    code: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Code:
    """A name in a source file, and the bytes of that file as they were read; `package` is what relative imports start from."""

    path: str
    package: str
    attribute: str
    source: bytes

    def named(self) -> dict[str, str]:
        """Give what a digest holds of it: not the path, which is another on every machine."""
        return {"source": hashlib.sha256(self.source).hexdigest(), "attribute": self.attribute}


def load(own: OwnFamily) -> Family:
    """Load an own family. Raises DomainError, in one line, where its code is not there, cannot be run or refuses its arguments."""
    return _made(_key(own), _read(own)).family


def family_of(families: Mapping[str, OwnFamily], name: str) -> Family:
    """Give a family by its name: one of `families`, or a shipped one."""
    return load(families[name]) if name in families else family(name)


def code_digest(own: OwnFamily) -> str:
    """Name what an own family computes by, as 64 hex digits: its source's bytes, or datatrove's version, class and arguments."""
    return _made(_key(own), _read(own)).code


def facts_of(families: Mapping[str, OwnFamily], name: str) -> Facts:
    """Give the facts of a family, own or of FAMILIES: a column per signal. Those of an own one are named by its code, too."""
    if name not in families:
        return family_facts(name)
    key, code = _key(families[name]), _read(families[name])
    loaded = _made(key, code)
    compute = functools.partial(_own_columns, key, code, loaded.code)
    parameters = {"kind": loaded.kind, "code": loaded.code}
    return Facts(name, _VERSION, signals_schema(loaded.family), compute, parameters, is_per_document=loaded.kind != "family")


def described(families: Mapping[str, OwnFamily], facts: Mapping[str, Facts]) -> dict[str, Any]:
    """Say of each own family and each of the corpus, for manifest.json, what it is and where its signals lie below a root."""
    named = {name: one for name, one in facts.items() if name in families or name in CORPUS_FAMILIES}
    return {name: {**one.parameters, "folder": one.folder, "signals": one.schema.names} for name, one in named.items()}


def with_code(table: dict[str, Any], facts: Mapping[str, Facts]) -> dict[str, Any]:
    """Add to a portable recipe the code of its own families, because it decides as much as a threshold does."""
    own = {name: {**entry, "code": facts[name].parameters["code"]} for name, entry in table["families"].items()}
    return {**table, "families": own}


def _own_columns(key: str, code: _Code | None, digest: str, documents: pa.RecordBatch, texts: TextBatch) -> Sequence[pa.Array]:
    # The source travels with the work: a worker runs the bytes that the build began with, also where it has no such file.
    loaded = _made(key, code)
    assert loaded.family.compute is not None, "each kind of own family has one"
    if loaded.code != digest:
        raise DomainError(f"families.{loaded.family.name}: a worker has another version of datatrove than the build; install the same")
    return list(loaded.family.compute(texts).values())


def _key(own: OwnFamily) -> str:
    try:
        return json.dumps(dataclasses.asdict(own), sort_keys=True)
    except TypeError as error:
        raise DomainError(
            f"families.{own.name}.arguments: {error}; they take texts, numbers, booleans, and lists and tables of these"
        ) from None


def _read(own: OwnFamily) -> _Code | None:
    """Find FILE.py:NAME or MODULE:NAME and read its source; None for a class that is named alone, which is datatrove's."""
    target = str(own.datatrove if own.function is None else own.function)
    if own.function is None and ":" not in target:
        return None
    place, _, attribute = target.rpartition(":")
    if not place or not attribute.isidentifier():
        raise DomainError(f"families.{own.name}: {target!r} names no code; it takes FILE.py:NAME or MODULE:NAME, as in rules.py:dosage")
    path, package = place, ""
    if not place.endswith(".py"):
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not str(spec.origin).endswith(".py"):
            raise DomainError(
                f"families.{own.name}: module {place!r} not found as Python source; install it where curate runs, or name a file, "
                f"as in rules.py:{attribute}"
            )
        path, package = str(spec.origin), spec.parent or ""
    try:
        with fsspec.open(path, "rb") as file:
            return _Code(path, package, attribute, bytes(file.read()))
    except (OSError, ValueError, ImportError):
        raise DomainError(f"families.{own.name}: file {path!r} not found; a path starts at the recipe's folder: correct it") from None


@functools.lru_cache(maxsize=64)
def _made(key: str, code: _Code | None) -> _Loaded:
    """Make a family of what was read, once in a process."""
    own = OwnFamily(**json.loads(key))
    if own.function is None:
        return _made_of_filter(own, str(own.datatrove), code)
    assert code is not None, own
    found = _attribute(own, _module(own, code), code.attribute)
    if isinstance(found, Family):
        _check(own, found)
        renamed = dataclasses.replace(found, name=own.name, compute=functools.partial(_family_columns, own.name, found))
        return _Loaded(renamed, "family", digest_of({**code.named(), "version": found.version}))
    if not callable(found):
        what = f"{code.attribute} of {code.path} is {type(found).__name__}"
        raise DomainError(f"families.{own.name}: {what}; it takes a function of one text, or a Family of filters.spec: name another")
    return _Loaded(_function_family(own.name, found), "function", digest_of(code.named()))


def _made_of_filter(own: OwnFamily, target: str, code: _Code | None) -> _Loaded:
    try:
        filters, data = importlib.import_module(_FILTERS), importlib.import_module("datatrove.data")
    except ImportError as error:
        raise DomainError(f'families.{own.name}: {_said(error)}; install it: pip install "gapless[datatrove]"') from None
    found = _attribute(own, filters, target) if code is None else _attribute(own, _module(own, code), code.attribute)
    if not (isinstance(found, type) and issubclass(found, importlib.import_module(f"{_FILTERS}.base_filter").BaseFilter)):
        raise DomainError(f"families.{own.name}: {target} is no filter of datatrove's; name a subclass of its BaseFilter")
    try:
        block: Any = found(**own.arguments)
    except Exception as error:
        what = f"{target} refuses the arguments {dict(own.arguments)}"
        raise DomainError(f"families.{own.name}: {what}: {_said(error)}; correct families.{own.name}.arguments") from None
    named = {"class": target} if code is None else code.named()
    digest = digest_of({**named, "datatrove": importlib.metadata.version("datatrove"), "arguments": dict(own.arguments)})
    return _Loaded(_block_family(own.name, block, data.Document), "datatrove", digest)


def _module(own: OwnFamily, code: _Code) -> types.ModuleType:
    try:
        return _run_source(code.path, code.package, code.source)
    except Exception as error:
        raise DomainError(f"families.{own.name}: {code.path} cannot be run: {_said(error)}; correct it, install what it imports") from error


@functools.lru_cache(maxsize=64)
def _run_source(path: str, package: str, source: bytes) -> types.ModuleType:
    """Run these bytes as a module of their own, named by them, so that a changed file never meets its older self.

    The name is the same in every process, as numba's cache of compiled functions needs it to be.
    """
    name = f"{package}.gapless_own_{hashlib.sha256(source).hexdigest()[:16]}".removeprefix(".")
    place = _on_this_machine(path, source)
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and numba look there
    try:
        exec(compile(source, place, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _on_this_machine(path: str, source: bytes) -> str:
    """Give a path where the source can be looked at, as numba's cache wants to: a copy where the file itself is elsewhere."""
    if pathlib.Path(path).is_file():
        return path
    copy = pathlib.Path(tempfile.gettempdir()) / "gapless" / hashlib.sha256(source).hexdigest()[:32] / pathlib.PurePath(path).name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}-{os.getpid()}")
        part.write_bytes(source)
        os.replace(part, copy)
    return str(copy)


def _attribute(own: OwnFamily, module: types.ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [known for known in vars(module) if not known.startswith("_")], n=1, cutoff=0.0)
        where = _FILTERS if module.__name__ == _FILTERS else module.__file__
        raise DomainError(
            f"families.{own.name}: {where} has no {name!r}; {f'did you mean {near[0]!r}?' if near else 'it has no names at all.'}"
        )
    return getattr(module, name)


def _check(own: OwnFamily, found: Family) -> None:
    types_by_name = {signal.name: signal.type for signal in found.signals}
    is_sound = bool(found.signals) and len(types_by_name) == len(found.signals)
    is_sound &= all(_COLUMN.fullmatch(name) is not None and kind in SIGNAL_TYPES for name, kind in types_by_name.items())
    is_sound &= all(types_by_name.get(rule.signal, "string") != "string" for rule in found.rules)
    is_sound &= len({rule.name for rule in found.rules if _COLUMN.fullmatch(rule.name)}) == len(found.rules)
    if not is_sound:
        raise DomainError(
            f"families.{own.name}: the Family is not consistent; names of signals and rules are snake_case and differ, types are "
            f"{', '.join(SIGNAL_TYPES)}, and a rule is over a signal of its family that is a number or a bool: correct it"
        )


def _family_columns(name: str, found: Family, texts: TextBatch) -> dict[str, pa.Array]:
    try:
        assert found.compute is not None, "it has no compute"
        columns = found.compute(texts)
    except Exception as error:
        raise DomainError(f"families.{name}: {_said(error)} on a batch of {len(texts)} documents; correct the family") from error
    wanted = [(field.name, field.type, len(texts)) for field in signals_schema(found)]
    if [(column, values.type, len(values)) for column, values in columns.items()] != wanted:
        raise DomainError(f"families.{name}: compute does not give one column per signal, in order, type and length; correct the family")
    return columns


def _function_family(name: str, function: Callable[[str], Any]) -> Family:
    source = "no default: set by the recipe"
    return Family(
        name=name,
        version=_VERSION,
        signals=(Signal("value", "float32", "what the function gives; null where it gives None"),),
        rules=(Rule("min_value", "value", ">=", None, source), Rule("max_value", "value", "<=", None, source)),
        compute=functools.partial(_function_columns, name, function),
    )


def _function_columns(name: str, function: Callable[[str], Any], texts: TextBatch) -> dict[str, pa.Array]:
    return {"value": pa.array([_value(name, function, text) for text in _texts(texts)], pa.float32())}


def _value(name: str, function: Callable[[str], Any], text: str) -> float | None:
    try:
        found = function(text)
        value = float(found) if isinstance(found, _NUMBERS) else math.nan
    except Exception as error:
        raise _failed(name, text, _said(error)) from error
    if found is None:
        return None
    if math.isnan(value):
        raise _failed(name, text, f"{found!r} is no value (a number, a boolean, or None where the question has no meaning)")
    return value


def _texts(batch: TextBatch) -> list[str]:
    data = batch.data.tobytes()
    return [data[start:end].decode() for start, end in itertools.pairwise(batch.offsets.tolist())]


def _block_family(name: str, block: Any, document: Callable[..., Any]) -> Family:
    return Family(
        name=name,
        version=_VERSION,
        signals=(
            Signal("is_kept", "bool", "the filter keeps the document"),
            Signal("why", "string", "the reason that the filter gives; null where it keeps the document or gives none"),
        ),
        rules=(Rule("min_is_kept", "is_kept", ">=", 1, "the filter's own decision"),),
        compute=functools.partial(_block_columns, name, block, document),
    )


def _block_columns(name: str, block: Any, document: Callable[..., Any], texts: TextBatch) -> dict[str, pa.Array]:
    found = []
    known, size = _texts(texts), max(1, getattr(block, "batch_size", 1))
    for start in range(0, len(known), size):
        batch = known[start : start + size]
        try:
            judged = [tuple(one) if isinstance(one, tuple) else (one, None) for one in _judged(block, document, batch)]
            found += [(bool(is_kept), None if is_kept or why is None else str(why)) for is_kept, why in judged]
        except Exception as error:
            raise _failed(name, batch[0], _said(error)) from error
    return {"is_kept": pa.array([is_kept for is_kept, _ in found], pa.bool_()), "why": pa.array([why for _, why in found], pa.string())}


def _judged(block: Any, document: Callable[..., Any], batch: list[str]) -> list[Any]:
    # A filter may change its document, so each call has documents of its own. `filter_batch` calls `filter` unless it is overwritten.
    results = list(block.filter_batch([document(text=text, id="") for text in batch]))
    if len(results) != len(batch):
        raise ValueError(f"filter_batch gave {len(results)} results for {len(batch)} documents")
    return results


def _failed(name: str, text: str, what: str) -> DomainError:
    return DomainError(f"families.{name}: {what} on the document that begins {text[:80]!r}; correct the code, and build again")


def _said(error: Exception) -> str:
    """Say an error in one line, with the innermost line of code that is not ours."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen")
    ]
    where = f" ({pathlib.PurePath(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
