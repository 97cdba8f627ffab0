"""Which boot of this machine this is. Standard library only: the keeper asks, too."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> bytes:
    """The first 8 bytes of this boot's random id."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text()
    return bytes.fromhex(text.strip().replace("-", ""))[:8]
