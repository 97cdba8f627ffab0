"""Documents that name tests, files and options name ones that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "tierfs/SEMANTICS.md").read_text()
    references = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text)
    assert len(references) > 15
    for file, name in references:
        source = (ROOT / "tests" / file).read_text()
        assert re.search(rf"def {name}\(", source), f"{file}::{name}"


def test_links_between_documents_lead_somewhere() -> None:
    for document in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("tierfs/*.md"),
        *ROOT.glob("native/*.md"),
    ):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"


def test_every_module_named_in_the_tour_exists() -> None:
    text = (ROOT / "tierfs/README.md").read_text()
    names = set(re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.py)`", text))
    assert len(names) > 10
    for name in names:
        assert (ROOT / "tierfs" / name).exists(), name
