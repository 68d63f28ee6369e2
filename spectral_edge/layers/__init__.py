"""Torch blocks of which the networks are made; every one is causal along frames."""

from __future__ import annotations

from .attention import BandMixing, ConvAttention, LocalBandAttention
from .conv import CausalConv2d, DepthwiseSeparable, conv_norm
from .resample import repeat_bins
from .scan import scan
from .temporal import TemporalBlock

__all__ = [
    "BandMixing",
    "CausalConv2d",
    "ConvAttention",
    "DepthwiseSeparable",
    "LocalBandAttention",
    "TemporalBlock",
    "conv_norm",
    "repeat_bins",
    "scan",
]
