"""The lake as a tree: names, inode numbers, attributes, and how fresh they are.

An object store has keys; programs want directories. This package makes one of the other, lazily:
nothing is listed before somebody looks, what was learnt is in the index and in no process's memory,
and a remount goes on with it. It speaks of inodes and names, never of FUSE, so that every front
calls the same functions.

Three questions and who answers them::

    what is NAME in PARENT?  lookup.py   the index while fresh, else HEAD beside LIST, or a listing
    what is in DIRECTORY?    readdir.py  the index in inode order, while listing.py fills it:
                             chains.py asks the lake, merge.py decides what its pages mean
    which bytes is INODE?    lookup.py   the index while fresh, else as for its name

and what they are made of::

    keys.py        which keys are paths, and why the others are hidden
    reconcile.py   an answer of the lake against what is known: the decision about one name
    entries.py     the index plus the decisions on their way into it; commits in order
    attributes.py  what is shown, and for how long it is believed
    described.py   what whoever wrote an object noted with it: modes, owners, times, links
    absence.py     names the lake does not have        flights.py   one question at a time
    run.py         what one listing has seen           split.py     where to cut a range of names
    ahead.py       what a reader of a tree reads next
    refresh.py     past all TTLs                       walk.py      all files of a tree

Invariants:

N1. An inode number is one version of one object, or one directory while it exists. Numbers are
    never reused.
N2. The same key with the same version keeps its inode over relistings and remounts; another version
    is another inode, as if renamed over the old one. Versions are equal if their ETags and sizes
    are; ids of versions count only where both are known.
N3. A name that is shown is a component of a key of the lake, byte for byte. A key with a component
    that cannot be a name is hidden, with a reason, and counted: never rewritten, never silently
    lost. A directory hides an object of its own name.
N4. From an answer of the lake to the decision about it there is a plain stretch of code: known
    state is read, judged and put on its way without waiting. What is answered to a caller was
    committed.
N5. Of two answers about one name the one asked for later wins. So a listing neither brings back
    what a look-up saw to vanish meanwhile, nor removes what one saw to be there. (Absences are
    remembered in bounded numbers; beyond them a listing may be believed until its own TTL ends.)
N6. A reader of a directory gets every entry that was there throughout, or an error; nothing that
    the lake has not confirmed within the TTL, or since the reader began.
N7. Nothing is believed longer than its TTL: kernels are told the remaining time, and of changes
    that are found earlier (`on_change`). A time in the future is stale.
N8. Memory does not grow with the lake: tables in flight are bounded by callers, others by
    constants. A relisting of a directory holds nine bytes for each entry it had.

Directories have no time of their own in a lake: they show the moment the index was made. A
directory disappears at the next listing of its parent, or look-up of its name, after its last key
went.
"""

from tierfs.namespace.absence import Absent
from tierfs.namespace.attributes import Attributes
from tierfs.namespace.namespace import Namespace
from tierfs.namespace.walk import Walk, WalkEntry

__all__ = ["Absent", "Attributes", "Namespace", "Walk", "WalkEntry"]
