"""What is fitted is pinned: models live under models/ by digest and are never rebuilt by themselves.

A domain's tokenizer and scorers are fitted once per root; a pin names each, created by whoever comes first, so two builds at once and
every later version use the same one until `--refit` names it.
"""

import hashlib
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow.compute as pc
import tokenizers

from curate import tokens
from curate.recipe import DomainError, Recipe
from curate.store import Store, file_digest

REFITS = ("tokenizer", "quality", "perplexity")


def resolve_tokenizer(store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, *, refit: bool) -> dict[str, Any]:
    """Give the tokenizer of a build as manifest.json records it: the recipe's own, the domain's pinned one, or a new fit."""
    if recipe.tokenizer.path is not None:
        data, extra = _read_tokenizer(recipe.tokenizer.path)
        info = _keep(store, data, name=pathlib.PurePosixPath(recipe.tokenizer.path).name, extra=extra)
    else:
        info = _pinned(store, connection, recipe, refit=refit)
    return {**info, "separator": recipe.tokenizer.separator}


def known_tokenizer(store: Store, recipe: Recipe) -> dict[str, Any] | None:
    """Give the tokenizer that resolve_tokenizer would give, without fitting or keeping one; None where models/ does not hold it."""
    if recipe.tokenizer.path is not None:
        data, extra = _read_tokenizer(recipe.tokenizer.path)
        info = _described(data, name=pathlib.PurePosixPath(recipe.tokenizer.path).name, extra=extra)
        return {**info, "separator": recipe.tokenizer.separator} if store.exists(info["path"]) else None
    pin = _pin(recipe)
    return {**store.read_json(pin), "separator": recipe.tokenizer.separator} if store.exists(pin) else None


def keep_file(store: Store, path: pathlib.Path, kind: str, suffix: str) -> dict[str, str]:
    """Copy a model file under models/, named by its content; give its path and SHA-256."""
    info = file_info(path, kind, suffix)
    if not store.exists(info["path"]):
        with store.scratch() as scratch:
            shutil.copyfile(path, scratch)
            store.adopt(scratch, info["path"])
    return info


def file_info(path: pathlib.Path, kind: str, suffix: str) -> dict[str, str]:
    """Say where a model file is kept, and its SHA-256."""
    sha256 = file_digest(path)
    return {"path": f"models/{kind}-{sha256[:16]}{suffix}", "sha256": sha256}


def pinned_scorer(store: Store, recipe: Recipe, what: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the scorer that is pinned for a domain, `what` being its name and what to call it; None where there is none.

    Raises DomainError where it was fitted with other settings, or a file of it is gone.
    """
    name = what.split()[0]
    pin = f"models/pins/{recipe.domain}.{name}.json"
    if not store.exists(pin):
        return None
    info: dict[str, Any] = store.read_json(pin)
    changed = [f"{key} is {settings[key]}, was {info['settings'][key]}" for key in settings if settings[key] != info["settings"][key]]
    if changed:
        raise DomainError(
            f"the {what} of domain {recipe.domain!r} was fitted with other settings ({', '.join(changed)}); "
            f"fit it anew with --refit {name}, or set them back"
        )
    for model in info["models"]:
        if not store.exists(model["path"]):
            raise DomainError(f"{model['path']}, a model of the {what}, is missing; restore it, or use --refit {name}")
    return info


def pin_scorer(store: Store, recipe: Recipe, info: Mapping[str, Any], *, replace: bool) -> bool:
    """Pin a fitted scorer for a domain; False where another build was first, whose pin stays unless it is to be replaced."""
    pin = f"models/pins/{recipe.domain}.{info['name']}.json"
    if replace:
        store.write_json(pin, info)
        return True
    return store.create(pin, json.dumps(info, indent=2, sort_keys=True).encode())


def _pinned(store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, *, refit: bool) -> dict[str, Any]:
    pin = _pin(recipe)
    if not refit and store.exists(pin):
        return dict(store.read_json(pin))
    sys.stderr.write(f"tokenizer: fitting a byte-level BPE of {recipe.tokenizer.vocab_size:,} entries\n")
    data = tokens.fit_tokenizer(_fit_texts(store, connection, recipe), recipe.tokenizer.vocab_size)
    info = _keep(store, data, name=f"{recipe.domain}-bpe", extra={})
    if refit:
        store.write_json(pin, info)
    elif not store.create(pin, json.dumps(info, indent=2, sort_keys=True).encode()):
        return dict(store.read_json(pin))
    return info


def _pin(recipe: Recipe) -> str:
    return f"models/pins/{recipe.domain}.tokenizer.json"


def _keep(store: Store, data: bytes, *, name: str, extra: dict[str, str]) -> dict[str, Any]:
    info = _described(data, name=name, extra=extra)
    if not store.exists(info["path"]):
        store.write_bytes(info["path"], data)
    return info


def _described(data: bytes, *, name: str, extra: dict[str, str]) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    n_vocab = tokenizers.Tokenizer.from_str(data.decode()).get_vocab_size()
    return {"name": name, "sha256": sha256, "path": f"models/tokenizer-{sha256[:16]}.json", "n_vocab": n_vocab, **extra}


def _fit_texts(store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> list[str]:
    """Take text for the fit by hash of doc_id, before any rule, none of it held out, in the order of the hash."""
    places = connection.sql(_FIT_ROWS.format(max_bytes=recipe.tokenizer.max_fit_bytes)).to_arrow_table()
    if not places.num_rows:
        raise DomainError("there is no text to fit a tokenizer on; check the sources, or name a tokenizer with tokenizer.path")
    texts = []
    for shard in places["shard"].unique().to_pylist():
        wanted = places.filter(pc.equal(places["shard"], shard)).sort_by("row")
        column = store.read_rows(f"corpus/{shard}", wanted["row"].to_pylist(), ["text"])["text"]
        texts += list(zip(wanted["place"].to_pylist(), column.to_pylist(), strict=True))
    return [text for _, text in sorted(texts)]


def _read_tokenizer(path: str) -> tuple[bytes, dict[str, str]]:
    """Read tokenizer.json from a file, a folder or the hub, and the special tokens that tokenizer_config.json names."""
    place = pathlib.Path(path)
    try:
        if place.is_file():
            data, config = place.read_bytes(), place.with_name("tokenizer_config.json")
        elif place.is_dir():
            data, config = (place / "tokenizer.json").read_bytes(), place / "tokenizer_config.json"
        else:
            import huggingface_hub  # only a hub id needs it, and it is slow to import

            data = pathlib.Path(huggingface_hub.hf_hub_download(path, "tokenizer.json")).read_bytes()
            config = pathlib.Path(huggingface_hub.hf_hub_download(path, "tokenizer_config.json"))
        tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:  # the libraries raise many kinds, and all of them mean the same to the user
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DomainError(
            f"tokenizer.path {path!r} gives no tokenizer ({why}); name a tokenizer.json, a folder that holds one, or a hub id"
        ) from None
    named = json.loads(config.read_text()) if config.is_file() else {}
    return data, {key: _token_text(named[key]) for key in ("bos_token", "eos_token") if named.get(key)}


def _token_text(value: Any) -> str:
    return str(value["content"] if isinstance(value, dict) else value)


_FIT_ROWS = """
WITH texts AS (
    SELECT doc_id, any_value(n_bytes) AS n_bytes, min({{'shard': shard, 'row': "row"}}) AS place, hash_key('tokenizer', doc_id) AS key
    FROM rows GROUP BY doc_id
    HAVING NOT bool_or(hash_key('holdout', "group") < holdout_bound)
),
upto AS (
    SELECT *, sum(n_bytes) OVER w AS n_upto, row_number() OVER w AS place_in_order FROM texts WINDOW w AS (ORDER BY key, doc_id)
)
SELECT place.shard AS shard, place."row" AS "row", place_in_order AS place FROM upto WHERE n_upto <= {max_bytes} OR place_in_order = 1
ORDER BY shard, "row"
"""
