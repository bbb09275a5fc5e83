"""What holds for every family: its declaration is consistent, it computes what it declares, and a change of output needs a version."""

import doctest

import pytest

from filters import FAMILIES, family, spec
from tests.filters.texts import GOLDEN_TEXTS, batch_of, signals_digest

# When a digest no longer fits: raise the family's version and replace its row here.
GOLDEN = {
    ("statistics", 1): "a6e28d8a45cacc58999b022288046f009723a16175b01ed9e09f6f7f23741a42",
    ("gopher_quality", 1): "99da063295a6a3ca0cd0855493c387f636deee8f1970805047aa338c4bfafa1b",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_declaration_is_consistent(name):
    found = family(name)
    signals = [signal.name for signal in found.signals]
    rules = [rule.name for rule in found.rules]
    assert found.name == name
    assert len(set(signals)) == len(signals)
    assert len(set(rules)) == len(rules)
    assert {rule.signal for rule in found.rules} <= set(signals)
    assert all(rule.name.startswith("min_" if rule.keep == ">=" else "max_") for rule in found.rules)
    assert all(rule.source for rule in found.rules)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("texts", [GOLDEN_TEXTS, ()], ids=["texts", "none"])
def test_one_column_per_signal_in_order(name, texts):
    found = family(name)
    computed = found.compute(batch_of(*texts))
    assert [(column, str(values.type), len(values)) for column, values in computed.items()] == [
        (signal.name, {"float32": "float"}.get(signal.type, signal.type), len(texts)) for signal in found.signals
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_output_changes_only_with_the_version(name):
    found = family(name)
    assert GOLDEN.get((name, found.version)) == signals_digest(found)


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match=r"family 'gophr' not found; known: .*gopher_quality.*statistics"):
        family("gophr")


def test_the_examples_in_spec_hold():
    assert doctest.testmod(spec).failed == 0
