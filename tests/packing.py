"""Pages of a lake in memory as compiled code would have read them from S3's answer."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

from tierfs.lake.protocol import ListPage, ObjectInfo
from tierfs.lake.s3_listing import Objects, parse


def answer(page: ListPage) -> bytes:
    """What S3 says of *page*, whose times are whole seconds."""
    contents = "".join(_contents(info) for info in page.objects)
    folded = "".join(
        f"<CommonPrefixes><Prefix>{quote_plus(prefix)}</Prefix></CommonPrefixes>"
        for prefix in page.prefixes
    )
    more = "<IsTruncated>false</IsTruncated>"
    if page.next_token is not None:
        # `packed` gives the page its own token, which may be none of S3's.
        more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<EncodingType>url</EncodingType>{contents}{folded}{more}</ListBucketResult>"
    ).encode()


def _contents(info: ObjectInfo) -> str:
    moment = datetime.fromtimestamp(info.mtime_ns // 1_000_000_000, UTC)
    etag = escape(info.version.etag.decode())
    extra = "<StorageClass>GLACIER</StorageClass>" if info.archived else ""
    if info.has_checksum:
        extra += (
            "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
            "<ChecksumType>FULL_OBJECT</ChecksumType>"
        )
    return (
        f"<Contents><Key>{quote_plus(info.key)}</Key><Size>{info.size}</Size>"
        f"<LastModified>{moment:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>{etag}</ETag>{extra}</Contents>"
    )


def packed(page: ListPage) -> ListPage:
    """*page* by compiled code, where there is any, and S3 could say it."""
    found = None if parse is None or page.unlistable else parse(answer(page), b"", None)
    if found is None or list(Objects(found)) != list(page.objects):
        return page
    return ListPage(Objects(found), found.prefixes, page.next_token, packed=found)
