"""Our S3 server and independent ones, held to one suite: ours could share our misreadings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.s3_conformance.buckets import *  # noqa: F403
from tests.s3_conformance.checksums import *  # noqa: F403
from tests.s3_conformance.listing import *  # noqa: F403
from tests.s3_conformance.multipart import *  # noqa: F403
from tests.s3_conformance.reading import *  # noqa: F403
from tests.s3_conformance.subject import S3
from tests.s3_conformance.writing import *  # noqa: F403
from tests.servers import S3Server, lakesim_server, moto_server, versitygw_server

_SERVERS = {"lakesim": lakesim_server, "moto": moto_server, "versitygw": versitygw_server}

#: What a server is known to get wrong: by server, then by test, with the test's own parameter
#: behind it where only that is wrong. A test that passes against expectation fails the run.
_DIFFERENCES: dict[str, dict[str, str]] = {
    "lakesim": {},
    "moto": {
        "test_a_body_that_is_not_what_was_signed_is_refused": "does not look at signatures",
        "test_bad_signatures_are_refused": "does not look at signatures",
        "test_a_wrong_content_md5_is_refused": "does not compare checksums",
        "test_a_wrong_trailer_is_refused": "does not compare checksums",
        "test_a_wrong_checksum_of_the_whole_is_refused": "does not compare checksums",
        "test_wrong_checksums_are_refused": "does not compare checksums",
        "test_checksums_are_kept": "knows no ChecksumType",
        "test_crc64nvme_is_made_where_none_was_sent": "makes no checksums",
        "test_composite_checksums": "CompleteMultipartUpload answers no checksum",
        "test_full_object_checksums": "CompleteMultipartUpload answers no checksum",
        "test_a_key_of_1025_bytes_is_refused": "counts characters",
        "test_keys_are_spelled_exactly[newline]": "404 for a key with a newline",
        "test_abort": "500 for a part of an upload that is gone",
        "test_complete_checks_its_parts": "takes parts in any order",
        "test_get_by_part_number": "answers 200",
        "test_read_conditions": "a tag does not make the date count no more",
        "test_copy": "does not look at conditions of copies",
        "test_copy_if_none_match": "does not look at conditions of copies",
        "test_delete_many_quietly": "is not quiet",
        "test_listing_in_pages": "with a delimiter, pages of ListObjects begin again",
        "test_versions": "404 for a delete marker read by its version id",
        "test_suspended_versions": "suspending forgets older versions",
    },
    "versitygw": {
        "test_bad_signatures_are_refused": "404 for an unknown access key",
        "test_a_304_says_what_was_not_modified_and_has_no_body": "a 304 without an ETag",
        "test_read_conditions": "compares dates in fractions of a second",
        "test_copy": "304 where a copy's source was not modified",
        "test_copy_if_none_match": "does not look at the conditions of a copy's target",
        "test_delete_many_quietly": "is not quiet",
        "test_an_object_may_be_a_prefix_too": "keys are paths of files",
        "test_keys_are_spelled_exactly[double slash]": "keys are paths of files",
        "test_keys_are_spelled_exactly[leading slash]": "keys are paths of files",
        "test_keys_are_spelled_exactly[slashes]": "keys are paths of files",
        "test_keys_are_spelled_exactly[trailing slash]": "a directory object has no body",
        "test_keys_are_spelled_exactly[dot dot]": "keys are paths of files",
        "test_keys_are_spelled_exactly[dot]": "keys are paths of files",
        "test_keys_are_spelled_exactly[control]": "a listing spells it as a replacement character",
        "test_keys_are_spelled_exactly[long segment]": "a segment is at most 255 bytes",
        "test_keys_are_spelled_exactly[1024 bytes]": "a segment is at most 255 bytes",
        "test_versions": "with the newest version deleted, the null version is the newest",
        "test_versions_in_pages": "versions come twice on pages that end within a key",
    },
}

_serial = itertools.count()


@pytest.fixture(scope="module", params=list(_SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with _SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def s3(request: pytest.FixtureRequest, server: S3Server) -> Iterator[S3]:
    expect_differences(request)
    client = server.client(
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    bucket = f"bucket-{next(_serial)}"
    client.create_bucket(Bucket=bucket)
    yield S3(server, client, bucket)
    client.close()


def expect_differences(request: pytest.FixtureRequest) -> None:
    name = request.node.originalname
    known = _DIFFERENCES[request.node.callspec.params["server"]]
    _, _, parameter = request.node.callspec.id.partition("-")  # behind the server
    for entry in (name, f"{name}[{parameter}]"):
        if entry in known:
            request.applymarker(pytest.mark.xfail(reason=known[entry], strict=True))
