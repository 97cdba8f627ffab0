"""Control sockets below long paths."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tierfs.control.address import MAX_ADDRESS_BYTES, address_of


@pytest.mark.parametrize("name", ["short", "é" * 120])
def test_a_path_of_any_length_can_be_bound_and_reached(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "control.sock"
    path.parent.mkdir()
    before = set(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with address_of(path) as address:
            listener.bind(address)
        listener.listen()
        assert path.is_socket()
        with address_of(path) as address:
            client.connect(address)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_path_that_fits_is_shown_as_it_is(tmp_path: Path) -> None:
    longest = Path("/" + "x" * (MAX_ADDRESS_BYTES - 1))
    with address_of(longest) as address:
        assert address == str(longest)
    with (
        pytest.raises(FileNotFoundError),
        address_of(tmp_path / "none" / ("x" * MAX_ADDRESS_BYTES)),
    ):
        pass
