"""The second arrow: a float step program to an int8 one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from spectral_edge.errors import CalibrationError
from spectral_edge.program import QParams, StateSpec, StepProgram, TensorSpec

from .calibrate import Progress, Stream, calibrate, collect_streams, golden_clip
from .fake_quant import Mode, set_mode
from .insert import activation_qparams, freeze_graph, insert_quantizers, quantizers
from .islands import spell_islands
from .qat import QatConfig, train
from .recipe import Recipe, load_recipe
from .separate import separate

__all__ = ["freeze", "prepare", "quantize"]

RecipeLike = str | Path | Mapping[str, Any] | Recipe


def quantize(
    program: StepProgram,
    sequences: Iterable[Sequence[Tensor]],
    recipe: RecipeLike = "w8a8",
    qat: QatConfig | Callable[[StepProgram], None] | None = None,
    progress: Progress | None = None,
) -> StepProgram:
    """Quantise a step program from real sequences; optionally fine-tune it.

    Args:
        program: float program of :func:`spectral_edge.streamify`; not changed.
        sequences: tuples with one tensor per input of the model, time on its ``time_dim``, any
            length and batch. States are fed back through each whole sequence.
        recipe: name, path of a YAML file, or plain data; see ``calibration/recipe.py``.
        qat: None for calibration only; a :class:`QatConfig` for the built-in training; or your own
            training loop, called with the prepared program.
        progress: called as ``progress(what, done, total)``.

    Returns:
        A program with int8 inputs, outputs and states, scales and zero points of every tensor, and
        a piece of the sequences as ``golden_inputs``.

    Raises:
        CalibrationError: no sequences, wrong shapes, NaN.
        SpecError: a bad recipe or QatConfig, or a program that is already quantised.
    """
    streams = collect_streams(program, sequences)
    prepared = _prepare(program, streams, load_recipe(recipe), progress)
    if isinstance(qat, QatConfig):
        outcome = train(program, prepared, streams, qat, progress)
        prepared = prepared.with_(provenance={**prepared.provenance, "qat": outcome})
    elif qat is not None:
        qat(prepared)
    return freeze(prepared)


def prepare(
    program: StepProgram,
    sequences: Iterable[Sequence[Tensor]],
    recipe: RecipeLike = "w8a8",
    progress: Progress | None = None,
) -> StepProgram:
    """Return a trainable program that computes what the int8 program will compute.

    Its module has parameters (weights, scales, zero points) and takes any batch; train it with any
    loop that carries states from hop to hop, then call :func:`freeze`. Arguments and errors as for
    :func:`quantize`.
    """
    return _prepare(program, collect_streams(program, sequences), load_recipe(recipe), progress)


def _prepare(
    program: StepProgram, streams: Sequence[Stream], recipe: Recipe, progress: Progress | None
) -> StepProgram:
    if program.precision != "float32":
        raise CalibrationError(
            f"program has precision {program.precision}, expected float32: quantise the program "
            "that streamify returned"
        )
    states = OrderedDict(
        (name, replace(spec, exact=spec.exact or recipe.keeps_float(name)))
        for name, spec in program.states.items()
    )
    program = program.with_(states=states)
    module = insert_quantizers(program, recipe.observer)
    prepared = program.with_(
        module=module,
        precision=recipe.precision,
        recipe=recipe.name,
        golden_inputs=golden_clip(program, streams),
    )
    calibrate(prepared, streams, recipe.streams, progress)
    separate(module)
    return prepared


def freeze(prepared: StepProgram) -> StepProgram:
    """Turn a prepared program into the int8 program: codes for floats, numbers for parameters.

    Raises:
        CalibrationError: the program has no quantisers.
    """
    module = prepared.module
    if not quantizers(module):
        raise CalibrationError(
            f"program of precision {prepared.precision} has no quantisers: call prepare first"
        )
    set_mode(module, Mode.QUANTIZE)
    separate(module)  # training has moved the scales
    placed, returned = activation_qparams(module)
    inputs, outputs = len(prepared.inputs), len(prepared.outputs)
    states = OrderedDict(
        (name, _freeze_state(spec, before, after))
        for (name, spec), before, after in zip(
            prepared.states.items(), placed[inputs:], returned[outputs:], strict=True
        )
    )
    frozen = prepared.with_(
        module=freeze_graph(module),
        inputs=_freeze_tensors(prepared.inputs, placed[:inputs]),
        outputs=_freeze_tensors(prepared.outputs, returned[:outputs]),
        states=states,
    )
    spell_islands(frozen)
    return frozen


def _freeze_tensors(
    specs: Sequence[TensorSpec], qparams: Sequence[QParams | None]
) -> tuple[TensorSpec, ...]:
    return tuple(
        spec if q is None else replace(spec, qparams=q)
        for spec, q in zip(specs, qparams, strict=True)
    )


def _freeze_state(spec: StateSpec, before: QParams | None, after: QParams | None) -> StateSpec:
    assert before == after, (before, after)  # one group: the same object made both
    if before is None:
        return spec
    initial = before.dequantize(before.quantize(np.asarray(spec.initial)))
    return replace(spec, dtype=before.dtype, initial=initial, qparams=before)
