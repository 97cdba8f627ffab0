"""The kinds of operations, how often each comes, and what can be left out."""

from __future__ import annotations

from collections.abc import Collection

#: Every kind of operation, with how often it comes.
WEIGHTS = {
    "open": 16,
    "close": 8,
    "pwrite": 14,
    "append": 5,
    "pread": 8,
    "ftruncate": 5,
    "fallocate": 1,
    "truncate": 5,
    "rename": 8,
    "rename_directory": 2,
    "noreplace": 2,
    "exchange": 1,
    "unlink": 5,
    "mkdir": 3,
    "rmdir": 4,
    "symlink": 2,
    "readlink": 1,
    "link": 1,
    "tmpfile": 1,
    "stat": 5,
    "lstat": 2,
    "fstat": 4,
    "access": 1,
    "listdir": 4,
    "chmod": 3,
    "fchmod": 1,
    "utimens": 3,
    "futimens": 2,
    "setxattr": 3,
    "getxattr": 2,
    "listxattr": 1,
    "removexattr": 1,
    "fsync": 2,
    "fdatasync": 1,
    "sync_directory": 1,
    "mmap_store": 3,
    "mmap_load": 2,
    "sendfile": 2,
    "copy_file_range": 2,
}
#: What can be left out together, by one word. A kind of operation is a word, too.
FEATURES = {
    "xattr": ("setxattr", "getxattr", "listxattr", "removexattr"),
    "mmap": ("mmap_store", "mmap_load"),
    "links": ("link", "symlink", "readlink"),
    "directories": ("mkdir", "rmdir", "rename_directory"),
    "times": ("utimens", "futimens"),
    "odd_names": (),
}


def chosen_kinds(without: Collection[str] = ()) -> dict[str, int]:
    """The weights of what is not left out. Raises ValueError for a word that means nothing."""
    unknown = set(without) - FEATURES.keys() - WEIGHTS.keys()
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    left_out = {kind for word in without for kind in FEATURES.get(word, (word,))}
    return {kind: weight for kind, weight in WEIGHTS.items() if kind not in left_out}
