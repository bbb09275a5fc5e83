"""docs/walkthrough.md: its commands run in their order, and what the page says of their output is so."""

import pathlib
import re
import shlex

import pytest

from tests.curate.commands import curate

_PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "walkthrough.md").read_text(encoding="utf-8")
# A part of the output of the command that begins so.
_SAID = {
    "show v1": ["409,651"],
    "sql": ["a97219900e9d", "0.824"],
    "why": ["[-half-] {+certain+}", "0.8241", "16.23"],
    "try": ["1,129 rows, 409,651 tokens", "1,105 rows", "gopher_quality.min_words"],
    "diff v1 v2": ["90 rows, 10,584 tokens", "66 rows, 10,599 tokens"],
    "verify v2": ["every digest is as it was published"],
    "export v2": ["1,105", "CC-BY-4.0"],
}


@pytest.mark.slow
def test_the_walk_can_be_walked(tmp_path: pathlib.Path) -> None:
    commands = re.findall(r"^\$ curate (.+)$", _PAGE, flags=re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        done = curate(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        for beginning, parts in _SAID.items():
            missing = [part for part in parts if command.startswith(beginning) and part not in done.stdout]
            assert not missing, f"{command} does not say {missing}: {done.stdout}"
    assert (tmp_path / "walk" / "reports" / "v1.html").exists()
    assert (tmp_path / "walk-hf" / "README.md").exists()
    assert all(any(command.startswith(beginning) for command in commands) for beginning in _SAID)
