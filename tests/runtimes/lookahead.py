"""Small denoisers that look ahead or take several frames a step, and what they give offline."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import spectral_edge as se
from spectral_edge.dsp.fixed import FrontendStream

FRONTEND = se.StftFrontend(n_fft=64, hop_length=32)
BINS = FRONTEND.bins


class LookAhead(nn.Module):
    """Two symmetric convolutions with biases around a GRU: a wrong edge is never forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 4, (3, 3), padding=(1, 1))
        self.gru = nn.GRU(4 * BINS, 8, batch_first=True)
        self.gain = nn.Linear(8, BINS)
        self.after = nn.Conv2d(4, 3, (3, 1), padding=(1, 0))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``[batch, 3, frames, bins]`` to mask and bias."""
        h = torch.relu(self.before(features))
        past, _ = self.gru(h.permute(0, 2, 1, 3).flatten(2))
        y = self.after(h * torch.sigmoid(self.gain(past)).unsqueeze(1))
        return {"mask": torch.sigmoid(y[:, :1]), "bias": 0.1 * torch.tanh(y[:, 1:])}


class TwoFrames(nn.Module):
    """Halves the frame rate, looks ahead at the lower one, and doubles it again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=(0, 1))
        self.ahead = nn.Conv2d(4, 6, (3, 1), padding=(1, 0))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``[batch, 3, frames, bins]`` to mask and bias, for an even number of frames."""
        y = self.ahead(torch.relu(self.down(features)))
        y = y.reshape(y.shape[0], 3, 2, y.shape[2], BINS).permute(0, 1, 3, 2, 4)
        y = y.reshape(y.shape[0], 3, -1, BINS)
        return {"mask": torch.sigmoid(y[:, :1]), "bias": 0.1 * torch.tanh(y[:, 1:])}


def offline(
    bundle: se.Bundle, run: object, pcm: NDArray[np.int16], step: int = 1
) -> NDArray[np.int16]:
    """Enhance a clip with masks of the whole clip: ``run`` is a model, or a program's ``run``.

    Only the front end works hop by hop here, with no delay; the clip has as many frames as
    overlap-add needs, made up to whole steps by silence.
    """
    frontend, (source,) = bundle.frontend, bundle.inputs
    assert isinstance(frontend, se.StftFrontend)
    hop, n_fft = frontend.hop_length, frontend.n_fft
    frames = -(-(len(pcm) + n_fft - hop) // hop)
    frames = -(-frames // step) * step
    padded = np.zeros(frames * hop, np.int16)
    padded[: len(pcm)] = pcm
    mask, bias = bundle.outputs
    stream = FrontendStream(frontend, source.qparams, mask.qparams, bias.qparams)
    codes = {
        t.name: np.zeros((1, t.shape[1], 1, t.shape[3]), t.dtype) for t in (source, mask, bias)
    }
    pcm_in, pcm_out = np.zeros(hop, np.int16), np.zeros(hop, np.int16)
    buffers = (codes[source.name], codes["mask"], codes["bias"])
    stream.bind(pcm_in, *buffers, pcm_out, layout="nchw")
    seen = []
    for block in padded.reshape(-1, hop):
        pcm_in[...] = block
        stream.analyze()
        seen.append(codes[source.name].copy())
    features = np.concatenate(seen, axis=2)
    real = source.qparams.dequantize(features) if source.qparams else features
    with torch.no_grad():
        given = run(torch.from_numpy(real))  # type: ignore[operator]
    masks = {
        t.name: t.qparams.quantize(given[t.name].numpy()) if t.qparams else given[t.name].numpy()
        for t in (mask, bias)
    }
    stream.reset()
    out = []
    for frame, block in enumerate(padded.reshape(-1, hop)):
        pcm_in[...] = block
        stream.analyze()
        for name, whole in masks.items():
            codes[name][...] = whole[:, :, frame : frame + 1]
        stream.synthesize()
        out.append(pcm_out.copy())
    late = n_fft - hop
    return np.concatenate([*out, np.zeros(late, np.int16)])[late:][: len(pcm)]
