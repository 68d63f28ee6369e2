"""Real FFT on integers: the golden model of ``se_fft.c``.

A real transform of n points runs as a complex one of n/2 (split-complex Stockham, decimation in
frequency, radices 4…4, 2, 3, 5) and a split. No stage scales or saturates: the input's L1 norm
bounds every intermediate. Leading axes are frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .qformat import Ints, bit_length, rdm, rsh

__all__ = ["forward", "inverse", "radices"]

COS72, COS144, SIN72, SIN144 = 663608942, -1737350766, 2042378317, 1262259218
SIN60 = 1859775393

Complex = tuple[Ints, Ints]


def radices(m: int) -> list[int]:
    """Radices of the complex transform of ``m`` points, in the order they run."""
    order = []
    for r in (4, 2, 3, 5):
        while m % r == 0:
            order.append(r)
            m //= r
    return order


def _add(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _sub(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


def _sub_i(a: Complex, b: Complex) -> Complex:
    return a[0] + b[1], a[1] - b[0]  # a - i·b


def _add_i(a: Complex, b: Complex) -> Complex:
    return a[0] - b[1], a[1] + b[0]  # a + i·b


def _scale(a: Complex, w: int) -> Complex:
    return rdm(a[0], w), rdm(a[1], w)


def _butterfly2(x: list[Complex]) -> list[Complex]:
    return [_add(x[0], x[1]), _sub(x[0], x[1])]


def _butterfly3(x: list[Complex]) -> list[Complex]:
    t, d = _add(x[1], x[2]), _scale(_sub(x[1], x[2]), SIN60)
    middle = x[0][0] + ((1 - t[0]) >> 1), x[0][1] + ((1 - t[1]) >> 1)  # x0 - t/2
    return [_add(x[0], t), _sub_i(middle, d), _add_i(middle, d)]


def _butterfly4(x: list[Complex]) -> list[Complex]:
    a0, a1 = _add(x[0], x[2]), _sub(x[0], x[2])
    b0, b1 = _add(x[1], x[3]), _sub(x[1], x[3])
    return [_add(a0, b0), _sub_i(a1, b1), _sub(a0, b0), _add_i(a1, b1)]


def _butterfly5(x: list[Complex]) -> list[Complex]:
    t1, t2 = _add(x[1], x[4]), _add(x[2], x[3])
    d1, d2 = _sub(x[1], x[4]), _sub(x[2], x[3])
    a1 = _add(_add(x[0], _scale(t1, COS72)), _scale(t2, COS144))
    a2 = _add(_add(x[0], _scale(t1, COS144)), _scale(t2, COS72))
    b1 = _add(_scale(d1, SIN72), _scale(d2, SIN144))
    b2 = _sub(_scale(d1, SIN144), _scale(d2, SIN72))
    first = _add(_add(x[0], t1), t2)
    return [first, _sub_i(a1, b1), _sub_i(a2, b2), _add_i(a2, b2), _add_i(a1, b1)]


_BUTTERFLY = {2: _butterfly2, 3: _butterfly3, 4: _butterfly4, 5: _butterfly5}


def _turn(z: Complex, c: Ints, s: Ints) -> Complex:
    """Return z·(c - i·s)."""
    return rdm(z[0], c) + rdm(z[1], s), rdm(z[1], c) - rdm(z[0], s)


def complex_forward(z: Complex, cosine: NDArray[np.int32], sine: NDArray[np.int32]) -> Complex:
    """Complex DFT over the last axis (m points); the tables are those of 2m points."""
    m, n = z[0].shape[-1], len(cosine)
    frames = z[0].shape[:-1]
    length, stride = m, 1
    for r in radices(m):
        groups = length // r
        x = [part.reshape(*frames, r, groups, stride) for part in z]
        y = _BUTTERFLY[r]([(x[0][..., k, :, :], x[1][..., k, :, :]) for k in range(r)])
        turn = (np.arange(groups) * (n // length))[:, None]
        for k in range(1, r):
            index = turn * k % n
            y[k] = _turn(y[k], cosine[index].astype(np.int64), sine[index].astype(np.int64))
        z = (
            np.stack([v[0] for v in y], axis=-2).reshape(*frames, m),
            np.stack([v[1] for v in y], axis=-2).reshape(*frames, m),
        )
        length, stride = groups, stride * r
    return z


def forward(v: Ints, cosine: NDArray[np.int32], sine: NDArray[np.int32]) -> Complex:
    """Return re, im [..., n/2 + 1], the DFT of real ``v`` [..., n].

    Fits int32 on the device when sum |v| < 2^29 over the even samples and over the odd ones.
    """
    m = v.shape[-1] // 2
    zr, zi = complex_forward((v[..., 0::2], v[..., 1::2]), cosine, sine)
    k = np.arange(m + 1)
    c, s = cosine[k].astype(np.int64), sine[k].astype(np.int64)
    pr, pi = zr[..., k % m], zi[..., k % m]
    qr, qi = zr[..., -k % m], zi[..., -k % m]
    ar, ai, br, bi = pr + qr, pi - qi, pr - qr, pi + qi
    upper = k > m // 2  # computed from the partner m - k
    c, s = np.where(upper, cosine[m - k], c), np.where(upper, sine[m - k], s)
    br, ai = np.where(upper, -br, br), np.where(upper, -ai, ai)
    tr = rdm(bi, c) - rdm(br, s)
    ti = rdm(br, c) + rdm(bi, s)
    re = np.where(upper, ar - tr + 1, ar + tr + 1) >> 1
    im = np.where(upper, 1 - (ti + ai), ai - ti + 1) >> 1
    re[..., 0], re[..., m] = zr[..., 0] + zi[..., 0], zr[..., 0] - zi[..., 0]
    im[..., 0] = im[..., m] = 0
    return re, im


def spectrum_shift(re: Ints, im: Ints) -> Ints:
    """Right shift (negative: left) that bounds the inverse transform, from sum |re| + |im|."""
    total = 2 * (np.abs(re).sum(axis=-1) + np.abs(im).sum(axis=-1))
    shift = np.maximum(bit_length(total + (total >> 10)) - 29, -29)
    return np.where(total > 0, shift, 0)


def inverse(
    re: Ints, im: Ints, cosine: NDArray[np.int32], sine: NDArray[np.int32]
) -> tuple[Ints, Ints]:
    """Return y [..., n] and s [...] with y = n · inverse DFT · 2^-s.

    Any int32 spectrum; the imaginary parts of the first and last bin are ignored.
    """
    m = re.shape[-1] - 1
    shift = spectrum_shift(re, im)
    right, left = np.maximum(shift, 0)[..., None], np.maximum(-shift, 0)[..., None]
    xr, xi = rsh(re, right) << left, rsh(im, right) << left
    k = np.arange(m)
    upper = k > m // 2
    low, high = np.where(upper, m - k, k), np.where(upper, k, m - k)
    c, s = cosine[low].astype(np.int64), sine[low].astype(np.int64)
    ar, ai = xr[..., low] + xr[..., high], xi[..., low] - xi[..., high]
    br, bi = xr[..., low] - xr[..., high], xi[..., low] + xi[..., high]
    tr = rdm(br, s) + rdm(bi, c)
    ti = rdm(br, c) - rdm(bi, s)
    zr = np.where(upper, ar + tr, ar - tr)
    zi = np.where(upper, ti - ai, ti + ai)
    zr[..., 0], zi[..., 0] = xr[..., 0] + xr[..., m], xr[..., 0] - xr[..., m]
    yi, yr = complex_forward((zi, zr), cosine, sine)  # swapped: the inverse
    y = np.empty((*yr.shape[:-1], 2 * m), np.int64)
    y[..., 0::2], y[..., 1::2] = yr, yi
    return y, shift
