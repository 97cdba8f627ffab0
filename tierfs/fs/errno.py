"""The one place where an error of the domain becomes an errno.

Debatable choices:

* ``LakeUnavailable`` is EIO and not ETIMEDOUT or EAGAIN: data loaders and C libraries retry
  neither, and report EIO the way they report a failing disk, which is what this is to them.
* ``LakeDenied`` is EACCES: it is the caller's administrator who can mend it, not a retry.
* ``LakeArchived`` is ENODATA, as hierarchical storage (Lustre HSM) says of a file that must be
  restored before it can be read.
* ``StaleVersion`` and ``PreconditionFailed`` are ESTALE: on OPEN the kernel then looks the path up
  again and opens the new version; on READ the application learns that its file is gone, as on NFS.
* ``CacheFull`` is ENOSPC. Who reads bytes never meets it, they come from the lake then; a name that
  cannot be written down, in the index or the journal, has no other place.
"""

from __future__ import annotations

import errno
import os

from tierfs import errors

#: The most specific class wins; `errno_of` walks the method resolution order.
ERRNO: dict[type[errors.TierfsError], int] = {
    errors.TierfsError: errno.EIO,
    errors.ConfigError: errno.EINVAL,
    errors.MountError: errno.EIO,
    errors.NotFound: errno.ENOENT,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.ReadOnly: errno.EROFS,
    errors.AlreadyExists: errno.EEXIST,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.CrossRoot: errno.EXDEV,
    errors.Refused: errno.EPERM,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.InvalidRequest: errno.EINVAL,
    errors.NoAttribute: errno.ENODATA,
    errors.StaleVersion: errno.ESTALE,
    errors.LakeError: errno.EIO,
    errors.LakeUnavailable: errno.EIO,
    errors.LakeDenied: errno.EACCES,
    errors.LakeArchived: errno.ENODATA,
    errors.LakeMissing: errno.EIO,
    errors.LakeProtocolError: errno.EIO,
    errors.PreconditionFailed: errno.ESTALE,
    errors.IntegrityError: errno.EIO,
    errors.CacheError: errno.EIO,
    errors.CacheFull: errno.ENOSPC,
    errors.CacheBusy: errno.EBUSY,
    errors.StagingFull: errno.ENOSPC,
    errors.IndexDamaged: errno.EIO,
}

#: Answers that are part of ordinary life: a path that is not there is no event for the log.
QUIET: frozenset[int] = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ENODATA,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.EXDEV,
        errno.EPERM,
        errno.EOPNOTSUPP,
        errno.EROFS,  # `Operations` says it itself, once a mount and with the path.
    }
)


def errno_of(error: errors.TierfsError) -> int:
    """The errno that a system call fails with when *error* reaches the boundary."""
    for kind in type(error).__mro__:
        number = ERRNO.get(kind)
        if number is not None:
            return number
    return errno.EIO


#: What an errno of another process, which did part of the work, is here.
_ERRORS: dict[int, type[errors.TierfsError]] = {
    errno.ENOENT: errors.NotFound,
    errno.EINVAL: errors.InvalidRequest,
    errno.ESTALE: errors.StaleVersion,
    errno.ENOSPC: errors.CacheFull,
    errno.EACCES: errors.LakeDenied,
    errno.ENODATA: errors.LakeArchived,
    errno.EIO: errors.LakeUnavailable,
    errno.EBADMSG: errors.IntegrityError,
}


def error_of(number: int, op: str, reason: str = "") -> errors.TierfsError:
    """The error that a native front means by *number* when it could not do *op*."""
    kind = _ERRORS.get(number, errors.TierfsError)
    return kind(op, "", reason or os.strerror(number))


def is_quiet(error: errors.TierfsError) -> bool:
    """Whether *error* is an ordinary answer (no log line)."""
    if isinstance(error, errors.LakeError):
        return False
    return errno_of(error) in QUIET
