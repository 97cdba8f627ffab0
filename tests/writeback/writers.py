"""Checkpoints written by the system calls of those who really write them.

Each writer is called as ``write(directory, step, scale_bytes)``, writes a checkpoint of about that
many bytes, and says which files it is made of, with their SHA-256. `verify` reads them again. The
sequences were seen with strace; those of DeepSpeed, Megatron, the Trainer, Orbax and TensorStore
come from their source.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from tests.writeback.operations import NOISE_BYTES, noise
from tests.writeback.states import HOLD, held

#: Relative paths, with the SHA-256 of what is in them.
Files: TypeAlias = "dict[str, str]"
Write: TypeAlias = Callable[[Path, int, int], Files]

#: What torch writes at once: a tensor, after its header in the archive.
_TENSOR_BYTES = 4 << 20
_HEADER_BYTES = 64
_TRUNCATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class _Output:
    """A file that is being written, and the hash of what went into it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        while data:
            data = data[os.write(self.fd, data) :]

    def writev(self, *pieces: bytes) -> None:
        written = os.writev(self.fd, pieces)
        joined = b"".join(pieces)
        self._hash.update(joined[:written])
        self.write(joined[written:])

    def digest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def _output(path: Path | str, flags: int = _TRUNCATE, mode: int = 0o666) -> Iterator[_Output]:
    fd = os.open(path, flags, mode)
    try:
        yield _Output(fd)
    finally:
        os.close(fd)


def _bytes(step: int, number: int, size: int) -> bytes:
    """Content that no other step and no other file has."""
    seed = step * 7919 + number
    blocks = [noise(seed + n, NOISE_BYTES) for n in range(-(-size // NOISE_BYTES))]
    return (b"%016d" % seed + b"".join(blocks))[:size]


def _tensors(step: int, number: int, size: int) -> Iterator[bytes]:
    for n, at in enumerate(range(0, size, _TENSOR_BYTES)):
        yield _bytes(step, 1000 * number + n, min(_TENSOR_BYTES, size - at))


def _save(path: Path, step: int, number: int, size: int, *, sync: bool = False) -> str:
    """``torch.save``: in place, no fsync, no rename; a writev for each tensor, then the tail."""
    with _output(path) as out:
        for tensor in _tensors(step, number, size):
            out.writev(b"PK\x03\x04".ljust(_HEADER_BYTES, b"\0"), tensor)
        out.write(b"PK\x05\x06 the directory of the archive, at its end")
        if sync:
            os.fsync(out.fd)
        return out.digest()


def _rewrite(path: Path, text: str) -> str:
    """``open(path, "w").write(text)``: how markers are rewritten."""
    with _output(path) as out:
        out.write(text.encode())
        return out.digest()


def _make(directory: Path) -> None:
    """``os.makedirs(directory, exist_ok=True)``, as it is done."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        os.stat(directory)


def torch_save(directory: Path, step: int, scale_bytes: int) -> Files:
    """One file that is overwritten by each step."""
    return {"last.pt": _save(directory / "last.pt", step, 0, scale_bytes)}


def torch_dcp(directory: Path, step: int, scale_bytes: int) -> Files:
    """FileSystemWriter: shards, then ``.metadata``, which is synced before it is written."""
    target = directory / "dcp"
    if not target.exists():
        os.access(directory, os.W_OK)
        os.mkdir(target)
    overwrites = (target / ".metadata").exists()
    files = {}
    for rank in range(2):
        name = f"__{rank}_0.distcp"
        with _output(target / name) as out:
            for tensor in _tensors(step, rank, scale_bytes // 2):
                for piece in (bytes(704), tensor, bytes(873)):
                    out.write(piece)
                    os.lseek(out.fd, 0, os.SEEK_CUR)
            os.fsync(out.fd)
            files[f"dcp/{name}"] = out.digest()
    with _output(target / ".metadata.tmp") as out:
        os.fsync(out.fd)
        out.write(_bytes(step, 99, 1483))
        files["dcp/.metadata"] = out.digest()
    os.stat(target / ".metadata.tmp")
    if overwrites:
        os.unlink(target / ".metadata")
    os.rename(target / ".metadata.tmp", target / ".metadata")
    return files


def safetensors(directory: Path, step: int, scale_bytes: int) -> Files:
    """``save_file``: a temporary file of full size, which is renamed before it is closed."""
    temporary = directory / f".tmp{secrets.token_hex(3)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with _output(temporary, flags, 0o600) as out:
        os.ftruncate(out.fd, 8 + scale_bytes)
        out.write(struct.pack("<Q", scale_bytes))
        for tensor in _tensors(step, 0, scale_bytes):
            out.write(tensor)
        os.rename(temporary, directory / "model.safetensors")
        return {"model.safetensors": out.digest()}


def lightning(directory: Path, step: int, scale_bytes: int) -> Files:
    """``_atomic_save`` by fsspec: a file elsewhere, then what `shutil.move` does across devices."""
    target = directory / f"step={step}.ckpt"
    descriptor, name = tempfile.mkstemp(dir=_elsewhere(directory))
    os.close(descriptor)
    source = Path(name)
    digest = _save(source, step, 0, scale_bytes)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _send(source, target)
        os.unlink(source)
    return {target.name: digest}


def _elsewhere(directory: Path) -> Path:
    """A directory for temporary files on another file system, if there is one."""
    device = os.stat(directory).st_dev
    places = [Path("/dev/shm"), Path(tempfile.gettempdir())]
    return next((place for place in places if os.stat(place).st_dev != device), places[-1])


def _send(source: Path, target: Path) -> None:
    found = os.stat(source)
    with open(source, "rb") as reading, _output(target) as out:
        at = 0
        while sent := os.sendfile(out.fd, reading.fileno(), at, 8 << 20):
            at += sent
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.listxattr(source)
    os.chmod(target, found.st_mode & 0o7777)


def trainer(directory: Path, step: int, scale_bytes: int) -> Files:
    """The Trainer of Hugging Face: a directory for each step, and the two newest are kept."""
    name = f"checkpoint-{step}"
    _make(directory / name)
    files = {
        f"{name}/{path}": digest for path, digest in _model(directory / name, step, scale_bytes)
    }
    state = json.dumps({"global_step": step})
    files[f"{name}/trainer_state.json"] = _rewrite(directory / name / "trainer_state.json", state)
    old = sorted(directory.glob("checkpoint-*"), key=lambda path: os.stat(path).st_mtime_ns)
    for path in old[:-2]:
        shutil.rmtree(path)
    return files


def _model(directory: Path, step: int, scale_bytes: int) -> Iterator[tuple[str, str]]:
    yield from safetensors(directory, step, scale_bytes // 3).items()
    yield "optimizer.pt", _save(directory / "optimizer.pt", step, 1, scale_bytes - scale_bytes // 3)
    yield "rng_state.pth", _save(directory / "rng_state.pth", step, 2, 14_244)


def deepspeed(directory: Path, step: int, scale_bytes: int) -> Files:
    """Shards, then ``latest``, which is rewritten in place."""
    name = f"global_step{step}"
    _make(directory / name)
    files = {}
    for rank in range(2):
        path = f"{name}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        files[path] = _save(directory / path, step, rank, scale_bytes // 2)
    files["latest"] = _rewrite(directory / "latest", name)
    return files


def megatron(directory: Path, step: int, scale_bytes: int) -> Files:
    """Shards with fsync, ``metadata.json``, a manifest that reads it all again, the tracker."""
    name = f"iter_{step:07d}"
    _make(directory / name)
    files = {}
    for rank in range(2):
        path = f"{name}/__{rank}_0.distcp"
        files[path] = _save(directory / path, step, rank, scale_bytes // 2, sync=True)
    metadata = json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1})
    files[f"{name}/metadata.json"] = _rewrite(directory / name / "metadata.json", metadata)
    read = {path: _sha256(directory / path) for path in files}
    assert read == files
    manifest = directory / name / "manifest.json"
    files[f"{name}/manifest.json"] = _rewrite(manifest, json.dumps(read))
    tracker = "latest_checkpointed_iteration.txt"
    files[tracker] = _rewrite(directory / tracker, str(step))
    return files


def orbax(directory: Path, step: int, scale_bytes: int) -> Files:
    """A directory with a temporary name, which gets its own when ``commit_success`` is in it."""
    temporary = directory / f"{step}.orbax-checkpoint-tmp-{secrets.randbelow(10**9)}"
    os.mkdir(temporary)
    os.mkdir(temporary / "params")
    files = {}
    for n in range(2):
        files[f"params/{n}"] = _store(temporary / "params", str(n), step, n, scale_bytes // 2)
    files["_METADATA"] = _rewrite(temporary / "_METADATA", json.dumps({"step": step}))
    text = f"Checkpoint commit was successful to {directory / str(step)}"
    files["commit_success"] = _rewrite(temporary / "commit_success", text)
    os.rename(temporary, directory / str(step))
    _sync(directory)
    return {f"{step}/{path}": digest for path, digest in files.items()}


def tensorstore(directory: Path, step: int, scale_bytes: int) -> Files:
    """The file driver alone: two keys that each step overwrites."""
    _make(directory / "zarr")
    names = ("c.0.0", ".zarray")
    sizes = (scale_bytes, 300)
    return {
        f"zarr/{name}": _store(directory / "zarr", name, step, n, size)
        for n, (name, size) in enumerate(zip(names, sizes, strict=True))
    }


def _store(
    directory: Path, key: str, step: int, number: int, size: int, *, alone: bool = True
) -> str:
    """One key: a lock file that becomes the value. Its generation is device, inode and mtime, by
    the open file and by its new name, unless others that write the key have that by then."""
    lock = directory / f"{key}.__lock"
    with _locked(lock) as fd:
        os.ftruncate(fd, 0)
        out = _Output(fd)
        for tensor in _tensors(step, number, size):
            out.write(tensor)
        os.fsync(fd)
        before = os.fstat(fd)
        os.rename(lock, directory / key)
        renamed = os.fstat(fd)
    _sync(directory)
    assert _generation(before) == _generation(renamed)
    if alone:
        assert _generation(os.stat(directory / key)) == _generation(before)
    return out.digest()


def _generation(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A lock of the open file, on a file that has the name still when the lock is held."""
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, wanted)
            if _is_at(fd, path):
                yield fd
                return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """Whether *path* is still the open file. It is opened again for that."""
    try:
        again = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.path.sameopenfile(fd, again)
    finally:
        os.close(again)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WRITERS: dict[str, Write] = {
    write.__name__: write
    for write in (
        torch_save,
        torch_dcp,
        safetensors,
        lightning,
        trainer,
        deepspeed,
        megatron,
        orbax,
        tensorstore,
    )
}


def verify(directory: Path, expected: Mapping[str, str]) -> None:
    """*expected* is there, byte for byte, and no temporary name is left."""
    wrong = [path for path, digest in expected.items() if _sha256(directory / path) != digest]
    assert not wrong, f"not what was written: {wrong}"
    left = [
        path
        for path in directory.rglob("*")
        if held(str(path.relative_to(directory)), HOLD, directory=path.is_dir())
    ]
    assert not left, f"temporary names: {left}"
