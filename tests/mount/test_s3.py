"""An S3 lake through a real mount, against an independent server."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mounting import Mount, tierfs, wait_until
from tests.raw_server import Reply, raw_server
from tests.servers import TEST_CREDENTIALS, shared_moto_server

MIB = 1 << 20
Make = Callable[..., Mount]
Content = Callable[[int, int], bytes]


class Bucket:
    """A bucket of the test's own."""

    def __init__(self) -> None:
        self.server = shared_moto_server()
        self.name = f"lake-{uuid.uuid4().hex[:12]}"
        self.server.make_bucket(self.name)
        self.client: Any = self.server.client()

    def put(self, key: str, data: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data, **options)

    @property
    def options(self) -> list[str]:
        return ["--endpoint", self.server.endpoint, "--region", "us-east-1"]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.client.close()


def test_a_prefix_of_a_bucket_reads_as_a_tree(
    mount: Make, bucket: Bucket, content: Content
) -> None:
    files = {
        "train/cat/1.jpg": content(1, 110_000),
        "train/cat/2.jpg": content(2, 1),
        "train/dog/été ünd+%2F&?#.jpg": content(3, 5000),
        "shard.tar": content(4, 9 * MIB + 17),
        "empty": b"",
    }
    for name, data in files.items():
        bucket.put(f"data/{name}", data)
    bucket.put("elsewhere", b"outside of the prefix")
    with mount(*bucket.options, url=f"s3://{bucket.name}/data", env=TEST_CREDENTIALS) as made:
        # The mount proves that it may read before it serves; that byte is not the reader's.
        before = made.lake_bytes()
        assert sorted(os.listdir(made.directory)) == ["empty", "shard.tar", "train"]
        for name, data in files.items():
            assert (made.directory / name).read_bytes() == data
        total = sum(len(data) for data in files.values())
        assert made.lake_bytes() - before == total, "each byte is fetched once"
        made.umount()
    with mount(*bucket.options, url=f"s3://{bucket.name}/data", env=TEST_CREDENTIALS) as made:
        before = made.lake_bytes()
        for name, data in files.items():
            assert (made.directory / name).read_bytes() == data
        assert made.lake_bytes() == before, "and is there after a remount"


def test_keys_that_are_no_paths_are_counted_and_never_leave_their_place(
    mount: Make, bucket: Bucket
) -> None:
    for key in ("a", "a/b", "x//y", "p/../q", "./z", "d/", "m/", "ok", "n" * 300):
        bucket.put(key, b"" if key == "d/" else b"content")
    with mount(*bucket.options, url=f"s3://{bucket.name}", env=TEST_CREDENTIALS) as made:
        root = made.directory
        assert sorted(os.listdir(root)) == ["a", "d", "m", "ok", "p", "x"]
        assert (root / "a" / "b").read_bytes() == b"content"
        assert os.listdir(root / "d") == []
        assert os.listdir(root / "m") == []
        assert os.listdir(root / "x") == []
        assert os.listdir(root / "p") == []
        hidden = made.status()["namespace"]
        assert hidden["hidden"] == {
            "shadowed_by_directory": 1,
            "empty_component": 1,
            "dot_component": 2,
            "name_too_long": 1,
            "marker_with_content": 1,
        }
        assert "a" in {item["key"] for item in hidden["hidden_keys"]}


def test_an_overwritten_object_is_seen_past_the_ttl(
    mount: Make, bucket: Bucket, content: Content
) -> None:
    bucket.put("f", content(1, 3 * MIB))
    with mount(
        *bucket.options,
        "--metadata-ttl",
        "1s",
        url=f"s3://{bucket.name}",
        env=TEST_CREDENTIALS,
    ) as made:
        assert (made.directory / "f").read_bytes() == content(1, 3 * MIB)
        bucket.put("f", content(2, 2 * MIB))
        wait_until(
            lambda: (made.directory / "f").read_bytes() == content(2, 2 * MIB), "the new version"
        )


def test_an_archived_object_is_listed_and_says_so_when_read(mount: Make, bucket: Bucket) -> None:
    bucket.put("cold", b"frozen", StorageClass="GLACIER")
    with mount(*bucket.options, url=f"s3://{bucket.name}", env=TEST_CREDENTIALS) as made:
        assert (made.directory / "cold").stat().st_size == 6
        with pytest.raises(OSError, match="No data available"):
            (made.directory / "cold").read_bytes()
        assert "restore" in made.log()


@pytest.mark.parametrize(
    ("url", "environment", "words"),
    [
        ("s3://no-such-bucket-here", TEST_CREDENTIALS, ["no-such-bucket-here", "bucket"]),
        ("s3://{bucket}/no/such/prefix", TEST_CREDENTIALS, ["no/such/prefix", "allow"]),
        ("s3://{bucket}", {}, ["credentials"]),
        ("s3://{bucket}", {"AWS_PROFILE": "nobody"}, ["nobody"]),
        ("s4://{bucket}", TEST_CREDENTIALS, ["s3://"]),
    ],
    ids=["bucket", "prefix", "credentials", "profile", "scheme"],
)
def test_each_wrong_lake_is_one_line_with_its_remedy(
    url: str, environment: dict[str, str], words: list[str], bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("f", b"x")
    target = tmp_path / "mnt"
    target.mkdir()
    nothing = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_CONFIG_FILE": "/nonexistent",
    }
    result = tierfs(
        "mount",
        url.format(bucket=bucket.name),
        target,
        "--cache",
        tmp_path / "cache",
        "--runtime-dir",
        tmp_path / "run",
        *bucket.options,
        env=nothing | environment,
    )
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert not os.path.ismount(target)


def test_expired_credentials_are_one_line_with_their_remedy(tmp_path: Path) -> None:
    body = b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
    target = tmp_path / "mnt"
    target.mkdir()
    with raw_server(lambda _: Reply(400, {"Content-Type": "application/xml"}, body)) as server:
        result = tierfs(
            "mount",
            "s3://bucket",
            target,
            "--cache",
            tmp_path / "cache",
            "--runtime-dir",
            tmp_path / "run",
            "--endpoint",
            server.endpoint,
            env={**TEST_CREDENTIALS, "AWS_SESSION_TOKEN": "old"},
        )
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert "expired" in line
    assert not os.path.ismount(target)


@pytest.mark.parametrize("front", ["native"], indirect=True)
def test_a_stopped_control_plane_holds_up_no_reader_for_whom_something_has_to_go(
    mount: Make, bucket: Bucket, content: Content
) -> None:
    names = ("a", "b", "c", "d")
    for n, name in enumerate(names):
        bucket.put(name, content(n, 1_500_000))
    options = (*bucket.options, "--cache-size", "4M", "--metadata-ttl", "inf")
    with mount(*options, url=f"s3://{bucket.name}", env=TEST_CREDENTIALS) as made:
        assert sorted(os.listdir(made.directory)) == list(names)
        for n, name in enumerate(names[:2]):
            assert (made.directory / name).read_bytes() == content(n, 1_500_000)
        wait_until(lambda: made.status()["cache"]["cached_files"] == 2, "a full cache")
        control = made.pids()["control"]
        os.kill(control, signal.SIGSTOP)
        try:
            for n, name in enumerate(names[2:], 2):
                # It would not hear of a timeout while it reads.
                command = ("cat", made.directory / name)
                read = subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=True)
                assert read.stdout == content(n, 1_500_000)
        finally:
            os.kill(control, signal.SIGCONT)
        # Nor has anybody waited in vain meanwhile: who made room goes on now.
        wait_until(lambda: made.status()["cache"]["evicted_files"] > 0, "room to be made")
        assert made.status()["cache"]["disk_errors"] == 0
