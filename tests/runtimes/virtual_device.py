"""A virtual sound device: a JACK server on the dummy driver, and a client that plays and records.

No sound card, no root: audio is exact to the sample. The client is a few calls of libjack through
ctypes, so that the tests need no further library.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

CLIENT = "lab"
_AUDIO = b"32 bit float mono audio"
_IS_INPUT, _IS_OUTPUT, _NO_START_SERVER, _SERVER_NAME = 1, 2, 1, 4
_PROCESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)


def require_jack() -> None:
    """Skip where there is no virtual device."""
    # only looked for: sounddevice opens the sound system when it is imported
    for name, found in (
        ("sounddevice", importlib.util.find_spec("sounddevice")),
        ("PortAudio", ctypes.util.find_library("portaudio")),
        ("jackd", shutil.which("jackd") and ctypes.util.find_library("jack")),
    ):
        if not found:
            pytest.skip(f"{name} is not installed")


@contextmanager
def jack_server(rate: int, period: int) -> Iterator[dict[str, str]]:
    """Run a server of its own name; yields the environment that makes programs use it."""
    name = f"spectral-edge-{os.getpid()}-{rate}"
    environment = os.environ | {"JACK_DEFAULT_SERVER": name, "JACK_NO_AUDIO_RESERVATION": "1"}
    # synchronous: a client that is slow on a busy machine delays the cycle instead of losing it
    command = ["jackd", "-n", name, "--no-realtime", "--sync", "--timeout", "5000"]
    command += ["-d", "dummy", "-r", str(rate), "-p", str(period), "-C", "1", "-P", "1"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield environment
    finally:
        server.terminate()
        server.wait(timeout=10)


class Lab:
    """A JACK client that plays a stimulus once somebody listens, and records what it hears.

    Attributes:
        played: samples of the stimulus played so far.
        heard: float32, recorded from the moment at which the stimulus began.
    """

    def __init__(self, server: str, stimulus: NDArray[np.float32], room: int) -> None:
        self._jack = jack = ctypes.CDLL(ctypes.util.find_library("jack"))
        jack.jack_client_open.restype = jack.jack_port_register.restype = ctypes.c_void_p
        jack.jack_port_get_buffer.restype = ctypes.c_void_p
        self._stimulus, self._heard = stimulus, np.zeros(room, np.float32)
        self.played = self._at = 0
        self._begun = False
        self._client = ctypes.c_void_p(self._connect(server))
        ports = (("play", _IS_OUTPUT), ("record", _IS_INPUT))
        self._play, self._record = (
            ctypes.c_void_p(
                jack.jack_port_register(
                    self._client, name.encode(), _AUDIO, ctypes.c_ulong(flags), ctypes.c_ulong(0)
                )
            )
            for name, flags in ports
        )
        self._process = _PROCESS(self._run)
        jack.jack_set_process_callback(self._client, self._process, None)
        jack.jack_activate(self._client)

    def _connect(self, server: str) -> int:
        """Open the client as soon as the server is there."""
        status = ctypes.c_int()
        for _ in range(100):
            client = self._jack.jack_client_open(
                CLIENT.encode(),
                _NO_START_SERVER | _SERVER_NAME,
                ctypes.byref(status),
                ctypes.c_char_p(server.encode()),
            )
            if client:
                return int(client)
            time.sleep(0.1)
        pytest.skip("jackd does not start here")

    def _run(self, frames: int, _: object) -> int:
        out, heard = (self._buffer(port, frames) for port in (self._play, self._record))
        listened = all(self._jack.jack_port_connected(p) for p in (self._play, self._record))
        out[:] = 0
        if not (self._begun or listened):
            return 0
        self._begun = True
        piece = self._stimulus[self.played : self.played + frames]
        out[: len(piece)] = piece
        self.played += len(piece)
        room = self._heard[self._at : self._at + frames]
        room[:] = heard[: len(room)]
        self._at += len(room)
        return 0

    def _buffer(self, port: ctypes.c_void_p, frames: int) -> NDArray[np.float32]:
        address = self._jack.jack_port_get_buffer(port, frames)
        values = (ctypes.c_float * frames).from_address(address)
        return np.frombuffer(values, np.float32)

    @property
    def heard(self) -> NDArray[np.float32]:
        """What was recorded so far."""
        return self._heard[: self._at].copy()

    def close(self) -> None:
        """Leave the server."""
        self._jack.jack_client_close(self._client)
