"""The bare client's upload: files cut into parts, as many connections as it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench import data
from bench.loadgen import PART_BYTES, File, Loadgen
from bench.subjects.base import Bucket

#: Uploads that are begun and completed at a time.
_TOGETHER = 8


class Uploader:
    """Sends files of a data set's content to *bucket*, without a file system."""

    def __init__(self, loadgen: Loadgen, bucket: Bucket, seed: int) -> None:
        self._loadgen = loadgen
        self._bucket = bucket
        self._seed = seed
        self._client = data.client(bucket)

    def send(self, waves: Iterable[Sequence[File]], connections: int) -> float:
        """Upload each wave when the one before it is complete. Seconds until the last object is
        there; requests are signed and bodies made beside the clock. Raises ReadFailedError."""
        return sum(self._wave(files, connections) for files in waves)

    def _wave(self, files: Sequence[File], connections: int) -> float:
        large = [file for file in files if file.size > PART_BYTES]
        begun_s, begun = _together(self._begin, large)
        uploads = dict(zip(large, begun, strict=True))
        rows = [row for file in files for row in self._rows(file, uploads.get(file))]
        sent = self._loadgen.put(self._seed, rows, connections)
        etags = iter(sent["etags"])
        parts = {file: [next(etags) for _ in _offsets(file)] for file in files}
        done_s, _ = _together(lambda file: self._complete(file, uploads[file], parts[file]), large)
        return begun_s + float(sent["seconds"]) + done_s

    def _begin(self, file: File) -> str:
        answer = self._client.create_multipart_upload(**self._named(file))
        return str(answer["UploadId"])

    def _complete(self, file: File, upload: str, etags: Sequence[str]) -> str:
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        answer = self._client.complete_multipart_upload(
            **self._named(file), UploadId=upload, MultipartUpload={"Parts": parts}
        )
        return str(answer["ETag"])

    def _rows(self, file: File, upload: str | None) -> list[str]:
        if upload is None:
            url = self._signed("put_object", self._named(file))
            return [f"{file.size}\t{file.path}\t{url}"]
        rows = []
        for number, offset in enumerate(_offsets(file), 1):
            wanted = {**self._named(file), "UploadId": upload, "PartNumber": number}
            url = self._signed("upload_part", wanted)
            rows.append(f"{file.size}\t{offset}\t{file.path}\t{url}")
        return rows

    def _signed(self, operation: str, wanted: dict[str, Any]) -> str:
        return str(self._client.generate_presigned_url(operation, Params=wanted))

    def _named(self, file: File) -> dict[str, Any]:
        return {"Bucket": self._bucket.name, "Key": self._bucket.prefix + file.path}


def _offsets(file: File) -> range:
    return range(0, max(file.size, 1), PART_BYTES)


def _together(work: Callable[[File], str], files: Sequence[File]) -> tuple[float, list[str]]:
    """How long *work* of all *files* took, a few at a time, and what it gave."""
    with ThreadPoolExecutor(_TOGETHER) as pool:
        begin = time.perf_counter()
        done = list(pool.map(work, files))
        return time.perf_counter() - begin, done
