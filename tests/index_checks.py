"""Walks over a whole index that hold it to its invariants (I1..I5, I7..I9), for tests of all
kinds.
"""

from __future__ import annotations

from collections import Counter

from tierfs.index import cache, names_apply, schema
from tierfs.index.environments import Environment
from tierfs.index.records import ROOT_INO, HiddenReason, Kind


def tables(env: Environment, databases: tuple[str, ...]) -> dict[str, dict[bytes, bytes]]:
    """All of *databases* at one moment: a background write may come between two reads."""
    with env.read() as txn:
        return {name: dict(txn.cursor(env.database(name)).iternext()) for name in databases}


def names_findings(env: Environment) -> list[str]:
    """What is wrong in ``names/``, in words; empty when its invariants hold and nothing is
    queued.
    """
    rows = tables(env, names_apply.DATABASES)
    inodes = {key: schema.unpack_inode(value) for key, value in rows["inodes"].items()}
    dentries = rows["dentries"]
    children = rows["children"]
    present = set(inodes) | {schema.pack_u64_key(ROOT_INO)}
    findings = []
    if rows["orphans"]:
        findings.append("subtrees are queued for purging")
    by_ino: Counter[bytes] = Counter()
    for key, value in dentries.items():
        parent, name = key[:8], key[8:]
        dentry = schema.unpack_dentry(value)
        ino = schema.pack_u64_key(dentry.ino)
        by_ino[ino] += 1
        inode = inodes.get(ino)
        if parent not in present:
            findings.append(f"I2: dentry {name!r} under missing {parent.hex()}")
        if children.get(parent + ino) != name:
            findings.append(f"I1: dentry {name!r} has no child row")
        if inode is None or schema.pack_u64_key(inode.parent) != parent:
            findings.append(f"I1: dentry {name!r} and its inode disagree: {inode}")
        elif inode.kind is not dentry.kind:
            findings.append(f"I1: dentry {name!r} and its inode are of different kinds")
    for ino in inodes:
        if by_ino[ino] != (ino != schema.pack_u64_key(ROOT_INO)):
            findings.append(f"I1: inode {ino.hex()} has {by_ino[ino]} dentries")
    if len(children) != len(dentries):
        findings.append(f"I1: {len(children)} children, {len(dentries)} dentries")
    objects = rows["objects"]
    findings += [f"I3: object of missing {key.hex()}" for key in objects if key not in inodes]
    for key in rows["listings"]:
        if key not in present or (key in inodes and inodes[key].kind is not Kind.DIRECTORY):
            findings.append(f"I2: listing of {key.hex()}")
    hidden = rows["hidden"]
    findings += [f"I2: hidden under {key[:8].hex()}" for key in hidden if key[:8] not in present]
    counted = Counter(value[0] for value in hidden.values())
    state = rows["state"]
    for reason in HiddenReason:
        value = state.get(schema.hidden_count_key(reason), bytes(8))
        if schema.U64.unpack(value)[0] != counted[reason]:
            findings.append(f"I5: {reason.name} counts {value.hex()}, there are {counted[reason]}")
    return findings


def cache_findings(env: Environment) -> list[str]:
    """What is wrong in ``cache/``, in words."""
    rows = tables(env, cache.DATABASES)
    files = {key: schema.unpack_file(value) for key, value in rows["files"].items()}
    present: Counter[bytes] = Counter()
    findings = []
    for key, value in rows["blocks"].items():
        present[key[:8]] += schema.unpack_block(value).length
        if key[:8] not in files:
            findings.append(f"I9: block {key.hex()} without a file")
    findings += [
        f"I7: file {key.hex()} says {file.present_bytes} bytes, its blocks have {present[key]}"
        for key, file in files.items()
        if file.present_bytes != present[key]
    ]
    value = rows["totals"].get(schema.TOTALS_KEY, bytes(schema.TOTALS.size))
    totals = schema.TOTALS.unpack(value)
    sums = (
        len(files),
        sum(file.present_bytes for file in files.values()),
        sum(file.overhead_bytes for file in files.values()),
    )
    if totals != sums:
        findings.append(f"I8: totals say {totals}, the sums are {sums}")
    return findings
