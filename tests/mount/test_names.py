"""Awkward names through a real mount: each has one defined result (SEMANTICS, "Names")."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.mount.mounting import Mount

Make = Callable[..., Mount]

SHOWN = [
    b"plain",
    b"with space",
    b"new\nline",
    b"tab\tand\x01control",
    b"not-utf8-\xff\xfe",
    "ünïcode-日本".encode(),
    b"n" * 255,
    b"%2F+&?#",
    b"-rf",
    b"...",
]


def test_names_of_a_file_lake_are_bytes(mount: Make, lake: Path) -> None:
    root = os.fsencode(lake)
    for name in SHOWN:
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
    deep = b"/".join([b"d" * 100] * 9)
    os.makedirs(os.fsdecode(root + b"/" + deep))
    Path(os.fsdecode(root + b"/" + deep + b"/leaf")).write_bytes(b"deep")
    with mount() as made:
        directory = os.fsencode(made.directory)
        assert set(os.listdir(directory)) == {*SHOWN, b"d" * 100}
        for name in SHOWN:
            assert Path(os.fsdecode(directory + b"/" + name)).read_bytes() == name
        assert Path(os.fsdecode(directory + b"/" + deep + b"/leaf")).read_bytes() == b"deep"


def test_links_that_leave_the_lake_are_counted_and_never_followed(
    mount: Make, lake: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"outside")
    (lake / "escape").symlink_to(secret)
    (lake / "loop").symlink_to(lake)
    (lake / "f").write_bytes(b"inside")
    (lake / "inner").symlink_to("f")
    with mount() as made:
        names = set(os.listdir(made.directory))
        assert "escape" not in names
        assert "loop" not in names
        assert not (made.directory / "escape").exists()
        assert (made.directory / "inner").read_bytes() == b"inside"
        hidden = made.status()["namespace"]
        assert hidden["hidden"]["unlistable"] == 2
        assert {item["key"] for item in hidden["hidden_keys"]} == {"escape", "loop"}
