"""Real servers for tests, as subprocesses on free loopback ports."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.lakesim import ACCESS_KEY, BINARY, SECRET_KEY, Lakesim, lakesim

#: What every client of the test servers signs with.
TEST_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
}
_START_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. *endpoint* is its URL."""

    endpoint: str
    pid: int

    def client(
        self, *, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, **config: Any
    ) -> Any:
        """A boto3 client that sends keys as they are. The caller closes it."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(s3={"addressing_style": "path"}, proxies={}, **config),
        )

    def make_bucket(self, name: str) -> None:
        """Create the bucket *name*."""
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _environment() -> dict[str, str]:
    """Ours without proxies: everything is on this machine."""
    return {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }


@contextmanager
def _server(command: list[str], port: int, environment: dict[str, str]) -> Iterator[S3Server]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            _wait_for(process, port, log)
            yield S3Server(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """A moto server for as long as the context lasts."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _server(command, port, _environment()) as server:
        yield server


@contextmanager
def versitygw_server() -> Iterator[S3Server]:
    """A versitygw on an empty directory, for as long as the context lasts."""
    binary = shutil.which("versitygw")
    if binary is None:
        pytest.skip("versitygw is not on the PATH")
    port = free_port()
    # On a real disk: it keeps attributes with the files, which not every tmpfs does.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        # The directory of the versions must not have the root's name as a prefix.
        roots = [Path(directory, name) for name in ("objects", "old-versions")]
        for root in roots:
            root.mkdir()
        command = [binary, "--port", f"127.0.0.1:{port}", "posix"]
        command += ["--versioning-dir", str(roots[1]), str(roots[0])]
        secrets = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        with _server(command, port, _environment() | secrets) as server:
            yield server


def s3_server(simulator: Lakesim) -> S3Server:
    """A lakesim, as one of these servers."""
    return S3Server(simulator.endpoint, simulator.pid)


def need_lakesim() -> None:
    """Skips the test where lakesim could not be built."""
    if not BINARY.exists():
        pytest.skip("lakesim is not built: there is no Rust toolchain")


@contextmanager
def lakesim_server() -> Iterator[S3Server]:
    """A lakesim that only does what is right, for as long as the context lasts."""
    need_lakesim()
    with lakesim() as simulator:
        yield s3_server(simulator)


@functools.cache
def shared_moto_server() -> S3Server:
    """One moto server for the whole test run, started when first asked for. Take buckets of your
    own."""
    return _until_exit(moto_server())


@functools.cache
def shared_lakesim_server() -> S3Server:
    """One lakesim that only does what is right, in the same way."""
    return _until_exit(lakesim_server())


def _until_exit(server: AbstractContextManager[S3Server]) -> S3Server:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(server)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Any) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                text = log.read().decode("utf-8", "replace")
                raise RuntimeError(f"the S3 server did not start: {text}") from None
            time.sleep(0.05)
