"""Every error that tierfs raises on purpose, and nothing else.

The tree (the module that turns a leaf into an errno is `tierfs.fs.errno`, the one boundary)::

    TierfsError
     |- ConfigError                 a wrong option, key, size or combination of them
     |- MountError                  the mount cannot be made or kept
     |- NotFound                    no such name, object or inode
     |- NotADirectory               a path component is a file
     |- IsADirectory                a file operation on a directory
     |- NameTooLong                 a name over 255 bytes
     |- ReadOnly                    a mutation where no write-back rule applies
     |- AlreadyExists               a name that is taken
     |- NotEmpty                    a directory that still has entries
     |- CrossRoot                   a rename out of a write-back root, or into another
     |- Refused                     an operation that no file system of this kind has
     |- Unsupported                 an operation that is not there for this kind of thing
     |- InvalidRequest              an argument that no caller may send
     |- NoAttribute                 no such extended attribute
     |- StaleVersion                the object changed under an open handle
     |- LakeError                   the lake gave no usable answer
     |   |- LakeUnavailable         transient: retried until the deadline, then this
     |   |- LakeDenied              credentials refused, missing or expired
     |   |- LakeArchived            the object sits in an archive tier and must be restored first
     |   |- LakeMissing             the bucket or the root directory does not exist
     |   |- LakeProtocolError       the server answered something it must not (wrong length, range,
     ETag)
     |   `- PreconditionFailed      the object is no longer the version that was asked for
     |- IntegrityError              bytes do not match their checksum and could not be had again
     |- CacheError                  the cache directory cannot be used
     |   |- CacheFull               no room and nothing to evict (callers stream instead)
     |   |- CacheBusy               another mount holds this cache for this lake
     |   `- StagingFull             no room for what is written, and waiting cannot help
     `- IndexDamaged                an index cannot be opened, has the wrong version or a foreign
     owner

An error carries the operation, the subject (a path, a key, an option) and a hint: what the reader
of the message can do about it. ``str(error)`` is one line with all three.
"""

from __future__ import annotations


def show(subject: str | bytes) -> str:
    """Render a name or key for one line of a message; bytes that are not printable are escaped."""
    if isinstance(subject, bytes):
        subject = subject.decode("utf-8", "backslashreplace")
    if subject.isprintable():
        return subject
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in subject)


class TierfsError(Exception):
    """Base of all. *op* is a verb phrase, *subject* what it was about, *hint* the remedy."""

    def __init__(self, op: str, subject: str | bytes = "", hint: str = "") -> None:
        self.op = op
        self.subject = subject
        self.hint = hint
        super().__init__(op, subject, hint)

    def __str__(self) -> str:
        text = self.op
        if self.subject:
            text += f": {show(self.subject)}"
        if self.hint:
            text += f" ({self.hint})"
        return text


def first_of(group: BaseExceptionGroup[TierfsError]) -> TierfsError:
    """The first error that a nursery passed on, out of all its groups."""
    inner = group.exceptions[0]
    return first_of(inner) if isinstance(inner, BaseExceptionGroup) else inner


class ConfigError(TierfsError):
    """A wrong option, key, size, or combination of them."""


class MountError(TierfsError):
    """The mount cannot be made or kept."""


class NotFound(TierfsError):
    """No such name, object or inode."""


class NotADirectory(TierfsError):
    """A path component, or the target of a directory operation, is a file."""


class IsADirectory(TierfsError):
    """A file operation on a directory."""


class NameTooLong(TierfsError):
    """A name over 255 bytes."""


class ReadOnly(TierfsError):
    """A mutation where no write-back rule applies."""


class AlreadyExists(TierfsError):
    """A name that is taken."""


class NotEmpty(TierfsError):
    """A directory that still has entries."""


class CrossRoot(TierfsError):
    """A rename that leaves its write-back root: the caller copies and removes instead."""


class Refused(TierfsError):
    """An operation that this file system does not have (hard links, device nodes)."""


class Unsupported(TierfsError):
    """An operation that is not there for this kind of thing."""


class InvalidRequest(TierfsError):
    """An argument that no caller may send."""


class NoAttribute(TierfsError):
    """No such extended attribute."""


class StaleVersion(TierfsError):
    """The object changed in the lake under an open handle, and this version is not cached whole."""


class LakeError(TierfsError):
    """The lake gave no usable answer."""


class LakeUnavailable(LakeError):
    """Transient trouble (5xx, reset, stall, time-out) that outlasted the request's deadline."""


class LakeDenied(LakeError):
    """Credentials are missing, expired, or not allowed to do this."""


class LakeArchived(LakeError):
    """The object sits in an archive tier and must be restored first."""


class LakeMissing(LakeError):
    """The bucket, or the root directory of a file lake, does not exist."""


class LakeProtocolError(LakeError):
    """The server answered what it must not: another length, range or version than asked for."""


class PreconditionFailed(LakeError):
    """The object is no longer the version that was asked for (HTTP 412, or gone), or a write's
    condition does not hold."""


class IntegrityError(TierfsError):
    """Bytes do not match their checksum and could not be had again."""


class CacheError(TierfsError):
    """The cache directory cannot be used."""


class CacheFull(CacheError):
    """No room, and nothing that may be evicted; or none for an index on that disk. Who reads bytes
    streams instead: this is never their errno."""


class CacheBusy(CacheError):
    """Another live mount holds this cache for the same lake."""


class StagingFull(CacheError):
    """No room for what is being written, and nothing to wait for."""


class IndexDamaged(TierfsError):
    """An index cannot be opened: damage, a wrong format version, or another lake's."""
