"""Real servers for tests, as subprocesses on free loopback ports."""

from __future__ import annotations

import atexit
import functools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

#: What every client of the test servers signs with.
TEST_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_START_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. *endpoint* is its URL."""

    endpoint: str
    pid: int

    def client(self) -> Any:
        """A boto3 client that sends keys as they are. The caller closes it."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=TEST_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=TEST_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, proxies={}),
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


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """A moto server for as long as the context lasts."""
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
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


@functools.cache
def shared_moto_server() -> S3Server:
    """One moto server for the whole test run, started when first asked for. Take buckets of your
    own."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(moto_server())


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
