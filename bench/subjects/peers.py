"""The peers that tierfs is compared with, in the order of the table. ``bench/PEERS.md`` says how to
get each."""

from __future__ import annotations

from bench.subjects.base import Subject
from bench.subjects.geesefs import Geesefs
from bench.subjects.juicefs import Juicefs
from bench.subjects.mount_s3 import MountS3
from bench.subjects.rclone import Rclone
from bench.subjects.s3fs import S3fs

PEERS: list[type[Subject]] = [Rclone, S3fs, MountS3, Juicefs, Geesefs]
