"""Quality of enhanced speech against its clean reference.

Every function takes ``(reference, estimate)``, mono clips of equal length, aligned: integers as
PCM int16, or floats at full scale ±1. SI-SDR, segmental SNR, LLR, WSS and the composite scores need
NumPy only; PESQ and STOI use the ``pesq`` and ``pystoi`` packages.

Sources: Loizou, "Speech Enhancement: Theory and Practice", 2nd ed. 2013, ch. 11, and Hu and Loizou,
"Evaluation of objective quality measures for speech enhancement", 2008 (segmental SNR, LLR, WSS,
composite); Klatt 1982 (weighted spectral slope); Le Roux et al., "SDR - half-baked or well done?",
2019 (SI-SDR); ITU-T P.862.2 (PESQ-WB); Taal et al. 2011 (STOI).
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectral_edge.errors import RuntimeUnavailable, SpecError

__all__ = ["composite", "llr", "pesq", "si_sdr", "ssnr", "stoi", "wss"]

Signal = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
FRAME_SECONDS = 0.03
OVERLAP = 0.75
SSNR_RANGE_DB = (-10.0, 35.0)
LLR_LIMIT = 2.0
KEPT_FRAMES = 0.95  # LLR and WSS drop the worst 5 % of frames
SILENT_ENERGY = 1e-20  # makes the LPC of an all-zero frame solvable; one LSB of int16 is 1e-9

# Critical bands of Loizou's WSS (Hz): centre and bandwidth.
BAND_CENTRES = (
    50.0, 120.0, 190.0, 260.0, 330.0, 400.0, 470.0, 540.0, 617.372, 703.378, 798.717, 904.128,
    1020.38, 1148.30, 1288.72, 1442.54, 1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97,
    2978.04, 3276.17, 3597.63,
)  # fmt: skip
BAND_WIDTHS = (
    70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 77.3724, 86.0056, 95.3398, 105.411, 116.256,
    127.914, 140.423, 153.823, 168.154, 183.457, 199.776, 217.153, 235.631, 255.255, 276.072,
    298.126, 321.465, 346.136,
)  # fmt: skip
WSS_PEAK_WEIGHT = 20.0  # Klatt's Kmax, for the distance to the highest band
WSS_LOCAL_WEIGHT = 1.0  # Klatt's Klocmax, for the distance to the nearest spectral peak
WSS_FLOOR_DB = -100.0


def si_sdr(reference: ArrayLike, estimate: ArrayLike) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB, after removing the means.

    Raises:
        SpecError: clips of different length, not mono, not finite, or a constant reference.
    """
    clean, noisy = _pair(reference, estimate)
    clean, noisy = clean - clean.mean(), noisy - noisy.mean()
    energy = float(clean @ clean)
    if energy == 0.0:
        raise SpecError("reference is silent, SI-SDR is not defined for it")
    target = float(noisy @ clean) / energy * clean
    noise = noisy - target
    return 10.0 * math.log10((float(target @ target) + EPS) / (float(noise @ noise) + EPS))


def ssnr(reference: ArrayLike, estimate: ArrayLike, sample_rate: int = 16_000) -> float:
    """Return the segmental SNR in dB: mean over 30 ms frames, each limited to -10…35 dB.

    Raises:
        SpecError: clips that do not fit, or shorter than two frames.
    """
    clean, noisy = _pair(reference, estimate)
    signal = np.sum(_frames(clean, sample_rate) ** 2, axis=1)
    noise = np.sum(_frames(clean - noisy, sample_rate) ** 2, axis=1)
    ratio = 10.0 * np.log10(signal / (noise + EPS) + EPS)
    return float(np.mean(np.clip(ratio, *SSNR_RANGE_DB)))


def llr(
    reference: ArrayLike,
    estimate: ArrayLike,
    sample_rate: int = 16_000,
    *,
    limit: float = LLR_LIMIT,
) -> float:
    """Return the log-likelihood ratio of linear prediction, mean over the best 95 % of frames.

    Order 16 (10 below 10 kHz). A frame counts for at most ``limit``; Loizou's measure uses 2, the
    composite scores no limit (``math.inf``).

    Raises:
        SpecError: clips that do not fit, or shorter than two frames.
    """
    clean, noisy = _pair(reference, estimate)
    order = 10 if sample_rate < 10_000 else 16
    lags = _autocorrelation(_frames(clean, sample_rate), order)
    clean_lpc = _linear_prediction(lags)
    noisy_lpc = _linear_prediction(_autocorrelation(_frames(noisy, sample_rate), order))
    matrix = _toeplitz(lags)
    upper = np.einsum("ni,nij,nj->n", noisy_lpc, matrix, noisy_lpc)
    lower = np.einsum("ni,nij,nj->n", clean_lpc, matrix, clean_lpc)
    ratio = upper / lower
    return _mean_of_best(np.minimum(np.log(np.where(ratio <= 0.0, 1000.0, ratio)), limit))


def wss(reference: ArrayLike, estimate: ArrayLike, sample_rate: int = 16_000) -> float:
    """Return Klatt's weighted spectral slope distance over 25 bands, mean of the best 95 %.

    Raises:
        SpecError: clips that do not fit, or shorter than two frames.
    """
    clean, noisy = _pair(reference, estimate)
    clean_db = _band_levels(clean + EPS, sample_rate)
    noisy_db = _band_levels(noisy + EPS, sample_rate)
    weight = (_slope_weights(clean_db) + _slope_weights(noisy_db)) / 2.0
    difference = np.diff(clean_db, axis=1) - np.diff(noisy_db, axis=1)
    return _mean_of_best(np.sum(weight * difference**2, axis=1) / np.sum(weight, axis=1))


def pesq(
    reference: ArrayLike, estimate: ArrayLike, sample_rate: int = 16_000, mode: str = "wb"
) -> float:
    """Return PESQ (MOS-LQO); ``mode`` is ``wb`` (16 kHz) or ``nb`` (8 or 16 kHz).

    Not a number when PESQ finds no speech in the reference.

    Raises:
        RuntimeUnavailable: the pesq package is missing.
        SpecError: clips that do not fit, or a rate or mode PESQ does not have.
    """
    package = _package("pesq")
    clean, noisy = _pair(reference, estimate)
    if mode not in ("wb", "nb") or sample_rate not in (8_000, 16_000):
        raise SpecError(
            f"PESQ has no {mode!r} at {sample_rate} Hz: use 'wb' or 'nb' at 16000, 'nb' at 8000"
        )
    try:
        return float(package.pesq(sample_rate, clean, noisy, mode))
    except package.NoUtterancesError:
        return math.nan


def stoi(
    reference: ArrayLike, estimate: ArrayLike, sample_rate: int = 16_000, *, extended: bool = False
) -> float:
    """Return short-time objective intelligibility, 0…1 (``extended``: ESTOI).

    Raises:
        RuntimeUnavailable: the pystoi package is missing.
        SpecError: clips that do not fit.
    """
    package = _package("pystoi")
    clean, noisy = _pair(reference, estimate)
    return float(package.stoi(clean, noisy, sample_rate, extended=extended))


def composite(
    reference: ArrayLike, estimate: ArrayLike, sample_rate: int = 16_000
) -> dict[str, float]:
    """Return the composite scores ``csig``, ``cbak``, ``covl``, each limited to 1…5.

    Regressions of Hu and Loizou on PESQ-WB, LLR, WSS and segmental SNR, as customary for
    VoiceBank+DEMAND.

    Raises:
        RuntimeUnavailable: the pesq package is missing.
        SpecError: clips that do not fit, or shorter than two frames.
    """
    quality = pesq(reference, estimate, sample_rate)
    likelihood = llr(reference, estimate, sample_rate, limit=math.inf)
    slope = wss(reference, estimate, sample_rate)
    segmental = ssnr(reference, estimate, sample_rate)
    scores = {
        "csig": 3.093 - 1.029 * likelihood + 0.603 * quality - 0.009 * slope,
        "cbak": 1.634 + 0.478 * quality - 0.007 * slope + 0.063 * segmental,
        "covl": 1.594 + 0.805 * quality - 0.512 * likelihood - 0.007 * slope,
    }
    return {name: float(np.clip(score, 1.0, 5.0)) for name, score in scores.items()}


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise RuntimeUnavailable(
            f"{name} is not installed: pip install 'spectral-edge[metrics]'"
        ) from None


def _signal(value: ArrayLike, name: str) -> Signal:
    array = np.asarray(value)
    if array.ndim != 1 or not array.size:
        raise SpecError(f"{name} has shape {array.shape}, must be [samples] with samples > 0")
    scale = 1.0 / 32768.0 if np.issubdtype(array.dtype, np.integer) else 1.0
    signal: Signal = array.astype(np.float64) * scale
    if not np.isfinite(signal).all():
        raise SpecError(f"{name} holds NaN or infinity: look for the step that made it")
    return signal


def _pair(reference: ArrayLike, estimate: ArrayLike) -> tuple[Signal, Signal]:
    clean, noisy = _signal(reference, "reference"), _signal(estimate, "estimate")
    if clean.size != noisy.size:
        raise SpecError(
            f"reference has {clean.size} samples, estimate {noisy.size}: cut them to one length"
        )
    return clean, noisy


def _frames(signal: Signal, sample_rate: int) -> Signal:
    """Cut into windowed 30 ms frames with 75 % overlap; the last one is left out, as Loizou does.

    Returns:
        float64[frames, samples of a frame].
    """
    length = round(FRAME_SECONDS * sample_rate)
    step = math.floor((1.0 - OVERLAP) * FRAME_SECONDS * sample_rate)
    count = (signal.size - (length - step)) // step - 1
    if count < 1:
        raise SpecError(
            f"clip has {signal.size} samples, frame metrics need at least {length + step}"
        )
    taper = 0.5 * (1.0 - np.cos(2.0 * np.pi * np.arange(1, length + 1) / (length + 1)))
    windows = np.lib.stride_tricks.sliding_window_view(signal, length)[::step][:count]
    return np.asarray(windows * taper)


def _mean_of_best(distances: Signal) -> float:
    kept = round(distances.size * KEPT_FRAMES)
    return float(np.mean(np.sort(distances)[:kept]))


def _autocorrelation(frames: Signal, order: int) -> Signal:
    length = frames.shape[1]
    lags = [
        np.einsum("ni,ni->n", frames[:, : length - lag], frames[:, lag:])
        for lag in range(order + 1)
    ]
    out: Signal = np.stack(lags, axis=1)
    out[:, 0] += SILENT_ENERGY
    return out


def _toeplitz(lags: Signal) -> Signal:
    index = np.arange(lags.shape[1])
    return lags[:, np.abs(index[:, None] - index[None, :])]


def _linear_prediction(lags: Signal) -> Signal:
    """Solve the normal equations: lags float64[frames, order + 1] -> (1, a_1, …, a_order)."""
    solution = np.linalg.solve(_toeplitz(lags[:, :-1]), -lags[:, 1:, None])[..., 0]
    return np.concatenate((np.ones((lags.shape[0], 1)), solution), axis=1)


def _band_filters(bins: int, sample_rate: int) -> Signal:
    nyquist = sample_rate / 2.0
    centres = np.floor(np.array(BAND_CENTRES) / nyquist * bins)[:, None]
    widths = np.array(BAND_WIDTHS)[:, None]
    distance = (np.arange(bins)[None, :] - centres) / (widths / nyquist * bins)
    filters = np.exp(-11.0 * distance**2 + np.log(BAND_WIDTHS[0] / widths))
    threshold = math.exp(-30.0 / (2.0 * 2.303))  # the -30 dB point of a filter
    return np.asarray(np.where(filters > threshold, filters, 0.0))


def _band_levels(signal: Signal, sample_rate: int) -> Signal:
    """Return critical-band levels in dB: float64[frames, 25]."""
    frames = _frames(signal, sample_rate)
    n_fft = 2 ** math.ceil(math.log2(2 * frames.shape[1]))
    bins = n_fft // 2
    power = np.abs(np.fft.rfft(frames, n_fft)[:, :bins]) ** 2
    energy = power @ _band_filters(bins, sample_rate).T
    floor = 10.0 ** (WSS_FLOOR_DB / 10.0)
    return np.asarray(10.0 * np.log10(np.maximum(energy, floor)))


def _slope_weights(levels: Signal) -> Signal:
    """Return Klatt's weight of each slope: large near the highest band and near local peaks."""
    peak = levels.max(axis=1, keepdims=True)
    lower = levels[:, :-1]
    to_peak: Signal = WSS_PEAK_WEIGHT / (WSS_PEAK_WEIGHT + peak - lower)
    to_local: Signal = WSS_LOCAL_WEIGHT / (WSS_LOCAL_WEIGHT + _nearest_peaks(levels) - lower)
    return to_peak * to_local


def _nearest_peaks(levels: Signal) -> Signal:
    """Return the level of the peak that each slope climbs to.

    A rising slope looks upwards and, as in Loizou's code, stops one band before the peak; a falling
    one looks downwards to the peak itself.
    """
    rising = np.diff(levels, axis=1) > 0.0
    count = rising.shape[1]
    index = np.empty(rising.shape, dtype=np.int64)
    for band in reversed(range(count)):
        goes_on = rising[:, band + 1] if band + 1 < count else np.zeros(len(rising), dtype=bool)
        index[:, band] = np.where(goes_on, index[:, band + 1] if band + 1 < count else 0, band)
    falling = np.empty(rising.shape, dtype=np.int64)
    for band in range(count):
        goes_on = ~rising[:, band - 1] if band else np.zeros(len(rising), dtype=bool)
        falling[:, band] = np.where(goes_on, falling[:, band - 1] if band else 0, band)
    return np.asarray(np.take_along_axis(levels, np.where(rising, index, falling), axis=1))
