"""What is linked into the native programs may be: their licences are those that
``native/deny.toml`` allows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

NATIVE = Path(__file__).parents[2] / "native"


def allowed_licences() -> set[str]:
    rules = tomllib.loads((NATIVE / "deny.toml").read_text())
    return set(rules["licenses"]["allow"])


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met with licences of *allowed* alone. AND binds closer than
    OR; a slash is an OR of old."""
    tokens = re.findall(r"[()]|[^()\s/]+|/", expression)
    # An exception is a part of its licence's name.
    text = " ".join(tokens).replace(" / ", " OR ")
    text = re.sub(r"(\S+) WITH (\S+)", r"\1~WITH~\2", text)

    def any_of(words: list[str]) -> bool:
        value = all_of(words)
        while words and words[0] == "OR":
            words.pop(0)
            value = all_of(words) or value
        return value

    def all_of(words: list[str]) -> bool:
        value = one(words)
        while words and words[0] == "AND":
            words.pop(0)
            value = one(words) and value
        return value

    def one(words: list[str]) -> bool:
        word = words.pop(0)
        if word != "(":
            return word.replace("~", " ") in allowed
        value = any_of(words)
        assert words.pop(0) == ")"
        return value

    words = text.split()
    value = any_of(words)
    assert not words, expression
    return value


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND ISC", True),
        ("GPL-3.0-only/MIT", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_an_expression_is_met_or_not(expression: str, *, met: bool) -> None:
    assert is_allowed(expression, allowed_licences()) is met


@pytest.mark.skipif(shutil.which("cargo") is None, reason="no Rust toolchain")
def test_what_is_linked_in_may_be() -> None:
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"],
        cwd=NATIVE,
        capture_output=True,
        text=True,
        check=False,
    )
    if metadata.returncode:
        pytest.skip(f"cargo cannot tell: {metadata.stderr.strip().splitlines()[-1]}")
    packages: list[dict[str, Any]] = json.loads(metadata.stdout)["packages"]
    assert len(packages) > 50
    allowed = allowed_licences()
    refused = [
        f"{package['name']} {package['version']}: {package['license']}"
        for package in packages
        if not is_allowed(package["license"] or "none", allowed)
    ]
    assert refused == []
