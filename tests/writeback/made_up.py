"""Logs of requests that nobody made."""

from __future__ import annotations

from bench.lakesim import Request

#: Where the root's keys begin.
PREFIX = "w/"


class Log:
    """A log of requests that all took effect, in the order in which they are said."""

    def __init__(self, at_ns: int = 0) -> None:
        self.requests: list[Request] = []
        self.at_ns = at_ns

    def add(self, operation: str, path: str, size: int = 0, query: str = "") -> Log:
        number = len(self.requests) + 1
        self.requests.append(
            Request(
                sequence=number,
                method="",
                operation=operation,
                bucket="lake",
                key=PREFIX + path,
                query=query,
                range=None,
                arrived_ns=self.at_ns,
                status=200,
                fault=None,
                commit=number,
                committed_ns=self.at_ns,
                bytes_in=size,
                bytes_out=0,
                first_sent_ns=None,
                last_sent_ns=None,
            )
        )
        return self

    def put(self, path: str, size: int = 0) -> Log:
        return self.add("PutObject", path, size)

    def upload(self, path: str, *sizes: int) -> Log:
        self.add("CreateMultipartUpload", path, query="uploads=")
        query = f"uploadId={len(self.requests)}"
        for number, size in enumerate(sizes, 1):
            self.add("UploadPart", path, size, f"partNumber={number}&{query}")
        return self.add("CompleteMultipartUpload", path, 99, query)

    def copy(self, path: str) -> Log:
        return self.add("CopyObject", path)

    def delete(self, path: str) -> Log:
        return self.add("DeleteObject", path)
