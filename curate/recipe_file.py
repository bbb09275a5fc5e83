"""Where a recipe comes from: a domain's name or a file, what it extends, and what the command line lays over it.

Tables are merged key by key, the nearer one winning, before anything is checked; `mix.shares` is taken whole, because
half of one mixture and half of another is no mixture.
"""

import copy
import importlib.resources
import pathlib
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from curate import manifest
from curate.recipe import NAME, DomainError, Recipe
from curate.recipe_mix import ALTERNATIVES, BELONGING
from curate.recipe_table import build_recipe
from curate.sample import SAMPLE_SOURCES
from curate.store import Store


def read_recipe(
    store: Store,
    *,
    domain: str | None = None,
    file: str | None = None,
    sources: Iterable[str] = (),
    settings: Iterable[str] = (),
) -> Recipe:
    """Read, lay over and check a recipe.

    `sources` are NAME=GLOB, `settings` are KEY=VALUE with dotted keys and TOML values (8M and 20B are token counts).
    Where no source is named the recipe reads the sample corpus, with the overrides of its table [sample].
    Raises DomainError, in one line, for everything that can be known before a byte of a source is read.
    """
    if (domain is None) == (file is None):
        raise DomainError(
            "a build needs either --domain NAME or --recipe FILE, not both and not none; known domains: " + ", ".join(known_domains(store))
        )
    table = _load_domain(store, domain) if domain is not None else _load_file(store, str(file))
    for text in sources:
        name, _, glob = text.partition("=")
        if not glob:
            raise DomainError(f"--source {text!r} is not NAME=GLOB; give a name and a path, as in --source papers='data/*.jsonl.gz'")
        table.setdefault("sources", {}).setdefault(name, {})["path"] = glob
    given: dict[str, Any] = {}
    for text in settings:
        _merge(given, _setting(text))
    sample = table.pop("sample", None)
    is_sample = not _has_sources(table, given)
    if is_sample and sample is None:
        raise DomainError("the recipe names no source; add a table [sources.NAME] with a path, or --source NAME=GLOB")
    if is_sample:
        _lay_over(table, sample)
        table["sources"] = {name: {**spec, "path": f"{sample_dir(store)}/{spec['path']}"} for name, spec in SAMPLE_SOURCES.items()}
    _lay_over(table, given)
    return build_recipe(table, is_sample=is_sample, shares_of=lambda version: _shares_of(store, version))


def sample_dir(store: Store) -> str:
    """Where the sample corpus of a root lies, on this machine."""
    return store.url("cache/sample") if store.is_local else f"{tempfile.gettempdir()}/gapless-sample"


def known_domains(store: Store) -> list[str]:
    """Name the domains of a root and the shipped ones."""
    shipped = [entry.name for entry in importlib.resources.files("curate").joinpath("domains").iterdir()]
    return sorted({name.removesuffix(".toml") for name in [*store.children("domains"), *shipped] if name.endswith(".toml")})


def _has_sources(table: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Say whether the recipe reads files of its own: a setting that gives a source no path is about one that is there already."""
    specs = given.get("sources")
    return bool(table.get("sources")) or (
        isinstance(specs, Mapping) and any(isinstance(spec, Mapping) and "path" in spec for spec in specs.values())
    )


def _shares_of(store: Store, version: str) -> dict[str, Fraction]:
    """Give the share of each component in all tokens that a version's stages draw."""
    drawn: dict[str, int] = {}
    for stage in manifest.load(store, version).stages:
        for part in stage.components:
            drawn[part.name] = drawn.get(part.name, 0) + stage.epochs * part.epoch_tokens
    return {name: Fraction(tokens, sum(drawn.values())) for name, tokens in drawn.items()}


def _load_domain(store: Store, name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Load the first domain file of this name that has not been read on the way here: the root's, then the shipped one."""
    resource = importlib.resources.files("curate").joinpath("domains", f"{name}.toml")
    own = f"domains/{name}.toml"
    if not NAME.fullmatch(str(name)) or not (store.exists(own) or resource.is_file()):
        raise DomainError(f"domain {name!r} not found; known: {', '.join(known_domains(store))}. Create {own} under --root to add it.")
    if store.exists(own) and own not in seen:
        return _parse(store, store.read_bytes(own).decode(), where=own, base=store.url(), name=name, seen=seen)
    where = f"the shipped domain {name}"
    if where in seen or not resource.is_file():
        known = ", ".join(known_domains(store))
        raise DomainError(f"{seen[-1]} extends {name!r}, which leads back to itself; extends takes another domain: {known}")
    return _parse(store, resource.read_text(), where=where, base=store.url(), name=name, seen=seen)


def _load_file(store: Store, file: str) -> dict[str, Any]:
    path = pathlib.Path(file)
    if not path.is_file():
        known = ", ".join(known_domains(store))
        raise DomainError(f"recipe file {file!r} not found; give the path of a TOML file, or --domain with one of: {known}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DomainError(f"recipe file {file!r} is not UTF-8 text; give the path of a TOML file") from None
    return _parse(store, text, where=file, base=str(path.resolve().parent), name=path.stem, seen=())


def _parse(store: Store, text: str, *, where: str, base: str, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DomainError(f"{where} is not valid TOML: {error}; correct that line") from None
    for spec in table["sources"].values() if isinstance(table.get("sources"), dict) else ():
        if isinstance(spec, dict) and "path" in spec:
            paths = [spec["path"]] if isinstance(spec["path"], str) else spec["path"]
            spec["path"] = [_beside(base, str(path)) for path in paths]
    for spec in table["families"].values() if isinstance(table.get("families"), dict) else ():
        for key in ("function", "datatrove") if isinstance(spec, dict) else ():
            place, _, attribute = str(spec.get(key, "")).rpartition(":")
            if place.endswith(".py"):
                spec[key] = f"{_beside(base, place)}:{attribute}"
    parent = table.pop("extends", None)
    if parent is None:
        table.setdefault("domain", name)
        return table
    below = _load_domain(store, str(parent), (*seen, where))
    _lay_over(below, table)
    return below


def _beside(base: str, path: str) -> str:
    return path if "://" in path or pathlib.PurePath(path).is_absolute() else f"{base.rstrip('/')}/{path}"


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise DomainError(f"--set {text!r} is not KEY=VALUE; write it as --set select.budget_tokens=8M")
    return _nested(key.split("."), _value(value))


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Lay a nearer table over another: of keys that exclude each other its own stays."""
    for section, keys in ALTERNATIVES.items():
        table, nearer = below.get(section), above.get(section)
        if isinstance(table, dict) and isinstance(nearer, Mapping) and any(key in nearer for key in keys):
            for key in [key for key in keys if key in table and key not in nearer]:
                for name in (key, *BELONGING.get(key, ())):
                    table.pop(name, None)
    _merge(below, above)


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict) and key != "shares":
            _merge(below[key], value)
        else:
            below[key] = copy.deepcopy(value)


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nested(keys[1:], value)}


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
