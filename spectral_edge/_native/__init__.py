"""Finds and loads the compiled core, or explains its absence.

The core is a plain shared library without Python headers, ``spectral_edge._native._core``; it is
built by ``python setup.py build_ext --inplace`` or ``sh runtimes/c/build.sh`` and loaded by ctypes.
Every exported function is declared here and nowhere else; the structures mirror
``spectral_edge.h``.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = [
    "ISA",
    "Binding",
    "CodeRuleStruct",
    "Codes",
    "FrontendConfig",
    "LogMelConfig",
    "PcenConfig",
    "StftConfig",
    "View",
    "absence",
    "allocate",
    "core",
    "require_core",
    "warn_once_of_absence",
]

ISA = {"auto": 0, "scalar": 1, "sse41": 2, "avx2": 3, "neon": 4}
VERSION = 1


class StftConfig(ctypes.Structure):
    """Mirror of ``se_stft_config`` in ``spectral_edge.h``."""

    _fields_ = (
        ("n_fft", c_int32),
        ("hop", c_int32),
        ("isa", c_int32),
        ("dual_exponent", c_int32),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("window", c_void_p),
        ("dual", c_void_p),
        ("window_length", c_int32),
    )


class FrontendConfig(ctypes.Structure):
    """Mirror of ``se_frontend_config`` in ``spectral_edge.h``."""

    _fields_ = (
        ("stft", StftConfig),
        ("log2_table", c_void_p),
        ("exp2_table", c_void_p),
        ("channels", c_int32),
        ("feature", c_int32 * 3),
        ("compression", c_int32),
        ("inverse_whole", c_int32),
        ("inverse_fraction", c_int32),
        ("reference_log2", c_int32),
        ("running_level", c_int32),
        ("alpha_mantissa", c_int32),
        ("alpha_shift", c_int32),
        ("level_start", c_int64),
        ("level_floor", c_int64),
        ("delay", c_int32),
        ("head", c_int32),
    )


class Codes(ctypes.Structure):
    """Mirror of ``se_codes`` in ``spectral_edge.h``."""

    _fields_ = (
        ("multiplier", c_uint32),
        ("shift", c_int32),
        ("limit", c_int32),
        ("zero_point", c_int32),
        ("mask", c_int32 * 256),
        ("bias", c_int32 * 256),
    )


class CodeRuleStruct(ctypes.Structure):
    """Mirror of ``se_code_rule`` in ``spectral_edge.h``."""

    _fields_ = (
        ("multiplier", c_uint32),
        ("shift", c_int32),
        ("limit", c_int32),
        ("zero_point", c_int32),
    )


class View(ctypes.Structure):
    """Mirror of ``se_view`` in ``spectral_edge.h``."""

    _fields_ = (("data", c_void_p), ("channel_stride", c_int64), ("bin_stride", c_int64))


class Binding(ctypes.Structure):
    """Mirror of ``se_binding`` in ``spectral_edge.h``."""

    _fields_ = (
        ("pcm_in", c_void_p),
        ("pcm_out", c_void_p),
        ("features", View),
        ("mask", View),
        ("bias", View),
        ("as_float", c_int32),
    )


class LogMelConfig(ctypes.Structure):
    """Mirror of ``se_logmel_config`` in ``spectral_edge.h``."""

    _fields_ = (
        ("bins", c_int32),
        ("bands", c_int32),
        ("power", c_int32),
        ("total_bits", c_int32),
        ("whole", c_int32),
        ("fraction", c_int32),
        ("reference", c_int32),
        ("floor", c_int32),
        ("first", c_void_p),
        ("count", c_void_p),
        ("weight", c_void_p),
        ("offset", c_void_p),
        ("log2_table", c_void_p),
    )


class PcenConfig(ctypes.Structure):
    """Mirror of ``se_pcen_config`` in ``spectral_edge.h``."""

    _fields_ = (
        ("bands", c_int32),
        ("smooth_mantissa", c_int32),
        ("smooth_shift", c_int32),
        ("gain", c_int32),
        ("power", c_int32),
        ("epsilon", c_int64),
        ("bias", c_int32),
        ("bias_power", c_int32),
        ("log2_table", c_void_p),
        ("exp2_table", c_void_p),
    )


_object = POINTER(c_void_p)  # where se_*_init stores the object

# function -> (result, arguments), one line per function of the header
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "se_isa_available": (c_int, [c_int]),
    "se_make_circle": (c_int, [c_int, c_void_p, c_void_p]),
    "se_make_window": (c_int, [c_int, c_int, c_void_p]),
    "se_make_dual": (c_int, [c_int, c_int, c_int, c_void_p, POINTER(c_int32)]),
    "se_make_padded_dual": (c_int, [c_int, c_int, c_int, c_int, c_void_p, POINTER(c_int32)]),
    "se_round_trip_error": (c_int, [c_int, c_int, c_int, c_int]),
    "se_make_reference_log2": (c_int32, [c_int, c_int]),
    "se_make_log_tables": (None, [c_void_p, c_void_p]),
    "se_fft_size": (c_size_t, [c_int]),
    "se_fft_init": (c_int, [c_void_p, c_size_t, c_int, c_void_p, c_void_p, c_int, _object]),
    "se_fft_forward": (None, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "se_fft_inverse": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "se_stft_size": (c_size_t, [POINTER(StftConfig)]),
    "se_stft_init": (c_int, [c_void_p, c_size_t, POINTER(StftConfig), _object]),
    "se_stft_reset": (None, [c_void_p]),
    "se_stft_push": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "se_stft_pull": (None, [c_void_p, c_void_p, c_void_p, c_int, c_void_p]),
    "se_stft_push_clip": (None, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_void_p]),
    "se_stft_pull_clip": (None, [c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_void_p]),
    "se_stft_isa": (c_char_p, [c_void_p]),
    "se_frontend_size": (c_size_t, [POINTER(FrontendConfig)]),
    "se_frontend_init": (
        c_int,
        [c_void_p, c_size_t, POINTER(FrontendConfig), POINTER(Codes), _object],
    ),
    "se_frontend_reset": (None, [c_void_p]),
    "se_frontend_push": (None, [c_void_p, c_void_p]),
    "se_frontend_features": (None, [c_void_p, c_void_p]),
    "se_frontend_clip": (None, [c_void_p, c_void_p, c_int64, c_void_p]),
    "se_frontend_bind": (c_int, [c_void_p, POINTER(Binding)]),
    "se_frontend_analyze": (None, [c_void_p]),
    "se_frontend_synthesize": (None, [c_void_p]),
    "se_frontend_state_size": (c_size_t, [c_void_p]),
    "se_frontend_save": (None, [c_void_p, c_void_p]),
    "se_frontend_load": (c_int, [c_void_p, c_void_p, c_size_t]),
    "se_frontend_isa": (c_char_p, [c_void_p]),
    "se_logmel_size": (c_size_t, [POINTER(LogMelConfig)]),
    "se_logmel_init": (c_int, [c_void_p, c_size_t, POINTER(LogMelConfig), _object]),
    "se_logmel_frame": (None, [c_void_p, c_void_p, c_void_p, c_int, c_void_p]),
    "se_make_code_rule": (c_int, [c_uint32, c_int, c_int, c_int, POINTER(CodeRuleStruct)]),
    "se_quantize_int8": (c_int, [POINTER(CodeRuleStruct), c_void_p, c_int, c_void_p]),
    "se_quantize_int16": (c_int, [POINTER(CodeRuleStruct), c_void_p, c_int, c_void_p]),
    "se_make_dct": (c_int, [c_int, c_int, c_void_p]),
    "se_dct_forward": (None, [c_void_p, c_int, c_void_p, c_int, c_void_p]),
    "se_dct_inverse": (None, [c_void_p, c_int, c_void_p, c_int, c_void_p]),
    "se_dct_forward_2d": (None, [c_void_p, c_int, c_int, c_int, c_void_p, c_void_p]),
    "se_dct_inverse_2d": (None, [c_void_p, c_int, c_int, c_int, c_void_p, c_void_p]),
    "se_pcen_frame": (None, [POINTER(PcenConfig), c_void_p, c_void_p, c_void_p]),
}


def _find() -> Path | None:
    spec = find_spec("spectral_edge._native._core")
    if spec is not None and spec.origin:
        return Path(spec.origin)
    for suffix in (*EXTENSION_SUFFIXES, ".so", ".dylib", ".dll", ".pyd"):
        path = Path(__file__).with_name(f"_core{suffix}")
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("SPECTRAL_EDGE_CORE") == "off":
        return None, "the compiled core is switched off by SPECTRAL_EDGE_CORE=off"
    path = _find()
    if path is None:
        return None, (
            "the compiled core spectral_edge._native._core is not built; "
            "run: python setup.py build_ext --inplace (needs a C compiler)"
        )
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, f"the compiled core {path} cannot be used ({error}); build it again"
    return library, ""


def core() -> ctypes.CDLL | None:
    """Return the loaded core with all signatures declared, or None (see :func:`absence`)."""
    return _load()[0]


def absence() -> str:
    """Why :func:`core` is None, with the line to type; empty when it is there."""
    return _load()[1]


def require_core() -> ctypes.CDLL:
    """Return the core.

    Raises:
        RuntimeUnavailable: it is not there.
    """
    from spectral_edge.errors import RuntimeUnavailable

    library, why = _load()
    if library is None:
        raise RuntimeUnavailable(why)
    return library


@lru_cache(maxsize=1)
def warn_once_of_absence() -> None:
    """Warn that NumPy does the work instead: same bits, about a hundred times slower."""
    warnings.warn(
        f"{absence()}; the NumPy golden model is used instead, same bits but slower",
        RuntimeWarning,
        stacklevel=3,
    )


def allocate(size: int, init: Any, *arguments: Any) -> tuple[Any, c_void_p]:
    """Allocate ``size`` bytes and initialise an object in them.

    Returns:
        The memory, to be kept as long as the object, and the object's pointer.

    Raises:
        SpecError: the core refuses the configuration.
    """
    from spectral_edge.errors import SpecError

    if not size:
        raise SpecError("the compiled core refuses this configuration; see spectral_edge.h")
    memory = ctypes.create_string_buffer(size)
    pointer = c_void_p()
    status = init(memory, size, *arguments, byref(pointer))
    if status:
        raise SpecError(f"the compiled core refuses this configuration (status {status})")
    return memory, pointer
