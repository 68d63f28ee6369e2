"""Lets a classifier of pictures be measured like a session of audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .classify import ClassifySession
    from .timing import Measurable

__all__ = ["PictureFeed", "measurable", "sample_picture"]

PERIOD_S = 1.0  # pictures have no rate of their own; a report counts one a second


def sample_picture(height: int = 480, width: int = 640) -> Any:
    """Return uint8[height, width, 3]: coloured noise over a ramp, always the same."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None]
    noise = rng.integers(0, 56, (height, width, 3))
    return (ramp + noise).astype(np.uint8)


class PictureFeed:
    """A session of pictures whose hop is one picture; what is pushed does not matter."""

    hop_length = 1

    def __init__(self, session: ClassifySession) -> None:
        self._stream = session.pictures
        self._stream.frontend.picture = sample_picture()
        self.streams = (self._stream,)

    def push(self, block: Any, /) -> None:
        """Classify the test picture."""
        self._stream.fifo.run()


def measurable(session: Any) -> Measurable:
    """Return what to measure of a session of any kind."""
    feed: Measurable = session
    return PictureFeed(session) if getattr(session, "takes_pictures", False) else feed
