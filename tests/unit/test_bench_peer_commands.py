"""How the benchmark runs its peers, as far as that shows without running them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.subjects.base import Bucket, CannotError, Place
from bench.subjects.foreground import ForegroundPeer
from bench.subjects.juicefs import Juicefs
from bench.subjects.peers import PEERS
from bench.subjects.rclone import Rclone
from bench.subjects.s3fs import S3fs

_BUCKET = Bucket("http://127.0.0.1:1", "lake", "a/prefix/", "the-key", "the-secret")


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> ForegroundPeer:
    subject = request.param()
    assert isinstance(subject, ForegroundPeer)
    return subject


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "mnt", tmp_path, tmp_path / "scratch")


def test_no_credential_is_an_argument(peer: ForegroundPeer, place: Place) -> None:
    words = " ".join(peer.arguments(_BUCKET, place))
    assert "the-key" not in words
    assert "the-secret" not in words


def test_credentials_are_in_the_environment_and_nobody_elses_are(
    peer: ForegroundPeer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "AWS_PROFILE", "RCLONE_BWLIMIT", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "mine")
    environment = peer.environment(_BUCKET, place)
    assert environment["AWS_SECRET_ACCESS_KEY"] == "the-secret"
    assert environment["HOME"] == str(place.scratch)
    assert "mine" not in environment.values()


def test_it_is_read_only_unless_asked(peer: ForegroundPeer, place: Place) -> None:
    writing = peer.arguments(_BUCKET, replace(place, writable=True))
    reading = peer.arguments(_BUCKET, place)
    assert {"ro", "--read-only"} & (set(reading) - set(writing))
    assert not {"ro", "--read-only"} & set(writing)


def test_the_limit_of_the_cache_reaches_it_or_the_notes_say_why(
    peer: ForegroundPeer, place: Place
) -> None:
    limited = peer.arguments(_BUCKET, replace(place, cache_bytes=1 << 30))
    if limited == peer.arguments(_BUCKET, place):
        assert any("no limit of size" in note for note in peer.settings.notes)


def test_the_settings_show_the_command_that_runs(peer: ForegroundPeer, place: Place) -> None:
    shown = {word.split("=")[0] for word in peer.settings.command.split()}
    run = {word.split("=")[0] for word in peer.arguments(_BUCKET, place) if word.startswith("-")}
    assert run <= shown
    assert peer.settings.source


def test_a_program_that_is_not_there_is_named(
    peer: ForegroundPeer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CannotError, match=f"{peer.name} is neither"):
        peer.version()


def test_a_version_is_read_from_what_the_program_says(
    peer: ForegroundPeer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / peer.name
    program.write_text(f"#!/bin/sh\necho '{peer.name} V1.90.2 (commit:unknown) with GnuTLS'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert peer.version() == "1.90.2"


@pytest.mark.parametrize(
    ("peer", "log", "said"),
    [
        (Rclone(), "", ""),
        (Rclone(), "ERROR : IO error: denied\n\n", "ERROR : IO error: denied"),
        (
            S3fs(),
            "invalid credentials\nExiting FUSE event loop due to errors\n\n",
            "invalid creden",
        ),
        (Juicefs(), "<FATAL>: refused\nPlease create bucket b manually\n", "<FATAL>: refused"),
    ],
)
def test_the_last_words_are_the_last_that_say_something(
    peer: ForegroundPeer, log: str, said: str
) -> None:
    assert peer.last_words(log).startswith(said)
    assert bool(peer.last_words(log)) == bool(said)
