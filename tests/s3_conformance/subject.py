"""A server under test, and what the tests have in common."""

from __future__ import annotations

import base64
import hashlib
import http.client
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from awscrt import checksums as crt
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from bench.lakesim import ACCESS_KEY, SECRET_KEY
from tests.servers import S3Server

BODY = bytes(range(256)) * 400
PART = b"m" * (5 << 20)
OTHER_ETAG = '"00000000000000000000000000000000"'
CHECKSUMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")


@dataclass
class S3:
    """A server under test, a client of it that does nothing unasked, and an empty bucket."""

    server: S3Server
    client: Any
    bucket: str

    def put(self, key: str, body: bytes = BODY, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.put_object(
            Bucket=self.bucket, Key=key, Body=body, **more
        )
        return answer

    def get(self, key: str, **more: Any) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key, **more)["Body"].read()
        return body

    def head(self, key: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=key, **more)
        return answer

    def exists(self, key: str) -> bool:
        return error_of(self.client.head_object, Bucket=self.bucket, Key=key) is None

    def keys(self, **more: Any) -> list[str]:
        """Every key, over all pages."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **more)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def upload(self, key: str, parts: Iterable[bytes], **more: Any) -> tuple[str, dict[str, Any]]:
        """A multipart upload that is ready to be completed: its id, and the list of its parts."""
        created = self.client.create_multipart_upload(Bucket=self.bucket, Key=key, **more)
        where = {"Bucket": self.bucket, "Key": key, "UploadId": created["UploadId"]}
        algorithm = more.get("ChecksumAlgorithm")
        named = []
        for number, body in enumerate(parts, 1):
            extra = {"ChecksumAlgorithm": algorithm} if algorithm else {}
            done = self.client.upload_part(**where, PartNumber=number, Body=body, **extra)
            name = {"PartNumber": number, "ETag": done["ETag"]}
            if algorithm:
                name[f"Checksum{algorithm}"] = done[f"Checksum{algorithm}"]
            named.append(name)
        return created["UploadId"], {"Parts": named}

    def complete(self, key: str, upload: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=key, UploadId=upload[0], MultipartUpload=upload[1], **more
        )
        return answer

    def raw(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        content_sha256: str | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """A signed request by hand. *content_sha256*: what the signature says the body is."""
        request = AWSRequest(method, self.server.endpoint + path, data=body, headers=headers)
        auth = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
        if content_sha256 is not None:
            auth.payload = lambda _request: content_sha256
        auth.add_auth(request)
        url = urllib.parse.urlsplit(self.server.endpoint)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, got, answer.read()
        finally:
            connection.close()


def error_of(function: Callable[..., Any], **arguments: Any) -> tuple[int, str] | None:
    """The status and code of the error that a call ends in."""
    try:
        function(**arguments)
    except ClientError as error:
        answer: Any = error.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]
    return None


def checksum(algorithm: str, data: bytes) -> bytes:
    if algorithm.startswith("SHA"):
        return hashlib.new(algorithm, data).digest()
    compute = {"CRC32": crt.crc32, "CRC32C": crt.crc32c, "CRC64NVME": crt.crc64nvme}[algorithm]
    value: int = compute(data)
    return value.to_bytes(8 if algorithm == "CRC64NVME" else 4, "big")


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
