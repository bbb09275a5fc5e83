"""What holds for every family: its declaration is consistent, it computes what it declares, and a change of output needs a version."""

import doctest

import pytest

from filters import FAMILIES, family, spec
from tests.filters.texts import GOLDEN_TEXTS, batch_of, signals_digest

# When a digest no longer fits: raise the family's version and replace its row here.
GOLDEN = {
    ("statistics", 2): "da4a8a60a4c9e87deef571d06b3c9b9ca4e28b4875c58ef6d8408e0cdab8862d",
    ("gopher_quality", 1): "ec7f65fa869aad170cd905598a7a2b6c165682e066996d82dcd60a8e759f718f",
    ("gopher_repetition", 1): "04727b676b80f77e02ba63feacd4a6c7456042fbb6a21f76c522bf714181fd27",
    ("c4", 1): "c046fc9a254473591d84c4d7c13fdfcb32ca8ee61b16b1678f64ad9d12408ac1",
    ("c4_fineweb", 1): "b900cb649bb768cee8c3007b91e0322150ca1602f227aab043f129c5559f28b3",
    ("fineweb", 1): "717d296a29a4aa591ff7a23be738d8c40ffdac3d0402d29204eb48d110903522",
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
