"""Audio files in and out: any WAV or FLAC through soundfile, 16-bit WAV with nothing installed.

Samples are int16 everywhere. Files of another format are scaled to int16 on reading (float 1.0 is
32768, saturated), so what a file holds and what the front end sees differ by half a step at most.
Memory use does not depend on the length of a file: readers give blocks, writers take blocks.
"""

from __future__ import annotations

import os
import tempfile
import wave
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spectral_edge.errors import AudioError, RuntimeUnavailable, SpecError

__all__ = [
    "AudioReader",
    "AudioWriter",
    "Resampler",
    "open_reader",
    "open_writer",
    "read",
    "to_int16",
    "write",
]

PCM_SCALE = 32768.0  # float 1.0; one step above the largest int16
BLOCK = 16_384  # samples a reader gives at a time
INSTALL_LINE = "pip install 'spectral-edge[audio]'"
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b"caff")
_FORMATS = {".wav": "WAV", ".flac": "FLAC"}  # what a writer can be asked for


class AudioReader(Protocol):
    """An open audio file.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        frames: samples per channel.
    """

    sample_rate: int
    channels: int
    frames: int

    def blocks(self, size: int = BLOCK) -> Iterator[NDArray[np.int16]]:
        """Yield int16[samples, channels] from the start to the end."""
        ...


class AudioWriter(Protocol):
    """An audio file being written."""

    def write(self, block: NDArray[np.int16]) -> None:
        """Append int16[samples, channels]."""
        ...


def to_int16(samples: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Return float samples (1.0 is full scale) as int16: rounded, saturated.

    Raises:
        AudioError: NaN or infinity.
    """
    if not np.isfinite(samples).all():
        raise AudioError("audio holds NaN or infinity; repair it before enhancing it")
    scaled = np.rint(np.clip(samples, -1, 1) * PCM_SCALE)
    saturated: NDArray[np.int16] = np.minimum(scaled, 32767).astype(np.int16)
    return saturated


@contextmanager
def open_reader(path: str | os.PathLike[str]) -> Iterator[AudioReader]:
    """Open an audio file for reading.

    Args:
        path: WAV, FLAC or whatever soundfile reads; 16-bit WAV when soundfile is not installed.

    Raises:
        AudioError: missing, empty, not audio, or NaN inside (while reading).
        RuntimeUnavailable: the format needs soundfile.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"no audio file at {path}; check the path")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); give a WAV or FLAC file")
    opened = _SoundfileReader if _has_soundfile() else _WaveReader
    with opened(path) as reader:
        if reader.frames == 0:
            raise AudioError(f"{path} has no samples; give a file with audio in it")
        yield reader


@contextmanager
def open_writer(
    path: str | os.PathLike[str], sample_rate: int, channels: int
) -> Iterator[AudioWriter]:
    """Open a 16-bit file for writing; it appears under its name when complete, or not at all.

    Args:
        path: ``.wav`` or, with soundfile, ``.flac``; an existing file is replaced.
        sample_rate: Hz.
        channels: number of channels.

    Raises:
        AudioError: another suffix, or a folder that does not exist or cannot be written.
        RuntimeUnavailable: FLAC without soundfile.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise AudioError(f"cannot write {path.name!r}: the name must end in .wav or .flac")
    if suffix != ".wav" and not _has_soundfile():
        raise RuntimeUnavailable(f"writing {suffix} needs soundfile; {INSTALL_LINE}")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise AudioError(
            f"cannot write {path} ({error.strerror}); choose another folder"
        ) from error
    os.close(handle)
    opened: AbstractContextManager[AudioWriter]
    if _has_soundfile():
        opened = _SoundfileWriter(Path(temporary), sample_rate, channels, _FORMATS[suffix])
    else:
        opened = _WaveWriter(Path(temporary), sample_rate, channels)
    try:
        with opened as writer:
            yield writer
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[NDArray[np.int16], int]:
    """Read a whole file.

    Returns:
        int16[samples, channels] and the sample rate in Hz.

    Raises:
        AudioError, RuntimeUnavailable: see :func:`open_reader`.
    """
    with open_reader(path) as reader:
        return np.concatenate(list(reader.blocks())), reader.sample_rate


def write(path: str | os.PathLike[str], samples: NDArray[np.int16], sample_rate: int) -> None:
    """Write int16[samples] or int16[samples, channels] to a 16-bit file at once.

    Raises:
        AudioError, RuntimeUnavailable: see :func:`open_writer`.
    """
    block = samples[:, None] if samples.ndim == 1 else samples
    if block.dtype != np.int16:
        raise AudioError(
            f"samples are {block.dtype}, must be int16; see spectral_edge.audio.to_int16"
        )
    with open_writer(path, sample_rate, block.shape[1]) as writer:
        writer.write(block)


class Resampler:
    """Streaming sample rate conversion of one channel (soxr, high quality, linear phase).

    The output depends on the input alone, not on how it is cut into blocks, and is aligned with it.

    Raises:
        SpecError: a rate that is not positive.
        RuntimeUnavailable: soxr is not installed.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        for rate in (rate_in, rate_out):
            if not 1_000 <= rate <= 768_000:
                raise SpecError(f"sample rate is {rate} Hz, must be 1000…768000")
        try:
            import soxr
        except ImportError as error:
            raise RuntimeUnavailable(
                f"changing {rate_in} Hz to {rate_out} Hz needs soxr; {INSTALL_LINE}"
            ) from error
        self._stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32", quality="HQ")

    def push(self, block: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Take in float32[samples] and return what is ready; ``last`` returns all that is left."""
        out: NDArray[np.float32] = self._stream.resample_chunk(block, last=last)
        return out

    def reset(self) -> None:
        """Forget all input."""
        self._stream.clear()


def _has_soundfile() -> bool:
    try:
        import soundfile  # noqa: F401
    except (ImportError, OSError):  # OSError: the wheel is there, libsndfile is not
        return False
    return True


class _SoundfileReader:
    def __init__(self, path: Path) -> None:
        import soundfile

        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise AudioError(f"{path} is not audio that soundfile reads ({error})") from error
        self._path = path
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.frames = int(self._file.frames)

    def __enter__(self) -> _SoundfileReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def blocks(self, size: int = BLOCK) -> Iterator[NDArray[np.int16]]:
        import soundfile

        integer = self._file.subtype in ("PCM_16", "PCM_S8", "PCM_U8")
        dtype = "int16" if integer else "float32"
        while True:
            try:
                block = self._file.read(size, dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{self._path} is damaged ({error}); copy it again") from error
            if not len(block):
                return
            yield block if integer else to_int16(block)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


class _WaveReader:
    """16-bit WAV through the standard library."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = wave.open(str(path), "rb")  # noqa: SIM115
        except (wave.Error, EOFError) as error:
            if _head(path) not in _MAGIC:
                raise AudioError(f"{path} is not audio ({error})") from error
            raise RuntimeUnavailable(
                f"{path} is not a 16-bit PCM WAV file ({error}), and only those are read without "
                f"soundfile; {INSTALL_LINE}"
            ) from error
        self._path = path
        if self._file.getsampwidth() != 2:
            bits = 8 * self._file.getsampwidth()
            self._file.close()
            raise RuntimeUnavailable(
                f"{path} has {bits}-bit samples, soundfile reads them; {INSTALL_LINE}"
            )
        self.sample_rate = self._file.getframerate()
        self.channels = self._file.getnchannels()
        self.frames = self._file.getnframes()

    def __enter__(self) -> _WaveReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def blocks(self, size: int = BLOCK) -> Iterator[NDArray[np.int16]]:
        width = 2 * self.channels
        while data := self._file.readframes(size):
            whole = data[: len(data) // width * width]
            yield np.frombuffer(whole, "<i2").astype(np.int16).reshape(-1, self.channels)


class _SoundfileWriter:
    def __init__(self, path: Path, sample_rate: int, channels: int, kind: str) -> None:
        import soundfile

        try:
            self._file = soundfile.SoundFile(
                path, "w", sample_rate, channels, subtype="PCM_16", format=kind
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            path.unlink(missing_ok=True)
            raise AudioError(
                f"cannot write {channels} channels at {sample_rate} Hz as {kind} ({error})"
            ) from error

    def __enter__(self) -> _SoundfileWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, block: NDArray[np.int16]) -> None:
        self._file.write(block)


class _WaveWriter:
    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        self._file = wave.open(str(path), "wb")  # noqa: SIM115
        self._file.setparams((channels, 2, sample_rate, 0, "NONE", "not compressed"))

    def __enter__(self) -> _WaveWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, block: NDArray[np.int16]) -> None:
        self._file.writeframes(np.ascontiguousarray(block, "<i2").tobytes())
