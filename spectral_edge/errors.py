"""Every error of spectral-edge, with the exit code the command line returns for it.

::

    SpectralEdgeError                     exit
      SpecError(ValueError)                 2   a bad front end, recipe or configuration
      StreamError                           2   wrong hop length, dtype or rate; NaN; closed session
        AudioError                          2   not audio, empty, or cannot be written
        ImageError                          2   not a picture, damaged or too large
      CalibrationError                      2   no sequences, or they do not fit the program
      ConversionError                       2   node, module path, what was tried
        NotStreamable                       2   an op that is not causal with finite lookahead
        UnsupportedOp                       2   an op that a writer cannot spell
        ParityError                         3   first value that differs, max difference, index
      QualityGateFailed                     3   a metric fell below its threshold
      BundleError                           2   cannot be trusted or understood
        ManifestError, ChecksumMismatch, FrontendMismatch, VersionMismatch
      RuntimeUnavailable(ImportError)       4   the line to type: pip install 'spectral-edge[...]'
      RuntimeUnfit                          4   this engine or device cannot run this bundle
      LatencyGateFailed                     5   measured latency above the gate

Anything else that escapes is a defect and exits 1.
"""

from __future__ import annotations

__all__ = [
    "AudioError",
    "BundleError",
    "CalibrationError",
    "ChecksumMismatch",
    "ConversionError",
    "FrontendMismatch",
    "ImageError",
    "LatencyGateFailed",
    "ManifestError",
    "NotStreamable",
    "ParityError",
    "QualityGateFailed",
    "RuntimeUnavailable",
    "RuntimeUnfit",
    "SpecError",
    "SpectralEdgeError",
    "StreamError",
    "UnsupportedOp",
    "VersionMismatch",
]


class SpectralEdgeError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class SpecError(SpectralEdgeError, ValueError):
    """A frozen value (front end, recipe, configuration) was given something it cannot be."""

    exit_code = 2


class StreamError(SpectralEdgeError):
    """Audio that does not fit the session: length, dtype, rate, NaN, or a closed session."""

    exit_code = 2


class AudioError(StreamError):
    """A file that cannot be read or written as audio."""


class ImageError(StreamError):
    """A file that cannot be read as a picture."""


class CalibrationError(SpectralEdgeError):
    """Calibration data is missing or does not fit the program."""

    exit_code = 2


class ConversionError(SpectralEdgeError):
    """A model or program cannot be changed into the next representation."""

    exit_code = 2


class NotStreamable(ConversionError):
    """The model is not causal with finite lookahead; says where, why, and what to write instead."""


class UnsupportedOp(ConversionError):
    """A writer has no spelling for an op."""


class ParityError(ConversionError):
    """Two representations of one program differ by more than the contract allows."""

    exit_code = 3


class QualityGateFailed(SpectralEdgeError):
    """A measured quality is below its gate."""

    exit_code = 3


class BundleError(SpectralEdgeError):
    """A bundle cannot be trusted or understood."""

    exit_code = 2


class ManifestError(BundleError):
    """The manifest is missing, is not JSON, or has an unknown or missing key."""


class ChecksumMismatch(BundleError):
    """A member differs from the hash in the manifest."""


class FrontendMismatch(BundleError):
    """The bundle was made for another front end."""


class VersionMismatch(BundleError):
    """The bundle's format version is not one this release reads."""


class RuntimeUnavailable(SpectralEdgeError, ImportError):
    """An engine or optional library is not installed; the message holds the line to type."""

    exit_code = 4


class RuntimeUnfit(SpectralEdgeError):
    """The engine or device cannot run this bundle."""

    exit_code = 4


class LatencyGateFailed(SpectralEdgeError):
    """Measured latency is above the gate."""

    exit_code = 5
