"""Read every entry of an LMDB environment: ``python -P scan.py DIRECTORY MAP_SIZE MAX_DATABASES``.

In a process of its own, because damage may end it (an assertion of LMDB's, SIGBUS); and a script
that imports nothing of tierfs, because it is run by its path.

Exit status 0: all could be read, in order. `DAMAGED`: it could not, and what is in it is to blame.
Any other, also that of a Python which does not start, says nothing of the environment.
"""

from __future__ import annotations

import sys

import lmdb

#: None of Python's own: 1 is an exception that nobody caught, 2 a wrong command line.
DAMAGED = 9

#: What LMDB says of the machine, and not of what it reads.
_NOT_DAMAGE = (
    lmdb.MemoryError,
    lmdb.DiskError,
    lmdb.LockError,
    lmdb.ReadersFullError,
    lmdb.ReadonlyError,
    lmdb.TlsFullError,
    lmdb.DbsFullError,
)


def scan(directory: str, map_size: int, max_databases: int) -> int:
    """Read all of it; how many entries there are. Raises lmdb.Error, ValueError, or dies."""
    # As any reader, with a place in the table: a native front may write meanwhile, and would use
    # pages again that are being read here.
    env = lmdb.Environment(
        directory,
        map_size=map_size,
        readonly=True,
        readahead=True,
        max_dbs=max_databases,
        lib_version=0,
    )
    total = 0
    with env.begin() as txn:
        names = [bytes(name) for name, _ in txn.cursor()]
        for name in names:
            database = env.open_db(name, txn=txn, create=False)
            count, previous = 0, b""
            for key, _ in txn.cursor(database):
                if count and key <= previous:
                    raise ValueError(f"the keys of {name!r} are out of order")
                previous = key
                count += 1
            if count != txn.stat(database)["entries"]:
                raise ValueError(f"{name!r} does not have as many entries as it says")
            total += count
    env.close()
    return total


def main(arguments: list[str]) -> int:
    """The exit status; the reason of a failure is one line on stderr."""
    directory, map_size, max_databases = arguments
    try:
        scan(directory, int(map_size), int(max_databases))
    except (lmdb.Error, ValueError) as error:
        print(error, file=sys.stderr)
        # The class itself has what the system said: EIO, EMFILE, ENOENT.
        ours = isinstance(error, _NOT_DAMAGE) or type(error) is lmdb.Error
        return 1 if ours else DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
