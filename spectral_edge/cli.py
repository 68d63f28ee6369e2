"""The command line: every verb is a call of one public function.

Results go to standard output, as text or with ``--json`` as JSON; progress, notes and one-line
errors go to standard error. Exit codes follow the error classes of :mod:`spectral_edge.errors`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import spectral_edge as se
from spectral_edge.console import progress_bar, short_warnings
from spectral_edge.errors import (
    AudioError,
    LatencyGateFailed,
    QualityGateFailed,
    RuntimeUnavailable,
    RuntimeUnfit,
    SpecError,
    SpectralEdgeError,
)

__all__ = ["main"]

ENGINE_NAMES = ("litert", "tflite-runtime", "onnxruntime", "tensorflow", "native")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".aiff")
CALIBRATION_SECONDS = 20.0  # of each file
# library that a verb may lack -> extra that brings it
EXTRAS = {
    "torch": "train",
    "torchao": "train",
    "lightning": "train",
    "yaml": "train",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "ai_edge_litert": "litert",
    "flatbuffers": "litert",
    "soundfile": "audio",
    "soxr": "audio",
    "PIL": "image",
    "matplotlib": "demo",
    "jinja2": "demo",
    "rich": "demo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    Args:
        argv: arguments without the program name; those of the process when not given.
    """
    args = _parser().parse_args(argv)
    try:
        with short_warnings():
            args.verb(args)
        return 0
    except SpectralEdgeError as error:
        return _fail(error, error.exit_code, str(error))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            return _fail(error, 1, f"internal error: {error}; please report it")
        text = (
            f"this needs {error.name}, which is not installed; pip install 'spectral-edge[{extra}]'"
        )
        return _fail(error, RuntimeUnavailable.exit_code, text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        return _fail(error, 130, str(error) or "interrupted")
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error}; SPECTRAL_EDGE_DEBUG=1 shows where"
        return _fail(error, 1, text)


def _fail(error: BaseException, code: int, text: str) -> int:
    if os.environ.get("SPECTRAL_EDGE_DEBUG"):
        traceback.print_exception(error)
    print("spectral-edge: error:", " ".join(text.split()), file=sys.stderr)
    return code


def _show(args: argparse.Namespace, result: Any, text: str | None = None) -> None:
    """Print a result: its ``to_dict`` with ``--json``, else ``text`` or its ``table``."""
    if args.json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        print(result.table() if text is None else text)


def _note(text: str) -> None:
    """Say on a terminal what is going on."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


class _Plain:
    """Plain data that :func:`_show` can print."""

    def __init__(self, **data: Any) -> None:
        self._data = data

    def to_dict(self) -> dict[str, Any]:
        return self._data


# ---- verbs: bundle in, answer out -------------------------------------------------------------


def _run(args: argparse.Namespace) -> None:
    bundle = se.Bundle.load(args.bundle)
    if bundle.classifier is not None:
        _run_classifier(args, bundle)
        return
    for option in ("threshold", "refractory", "smoothing_seconds", "every_result"):
        if getattr(args, option) not in (None, False):
            raise SpecError(f"--{option.replace('_', '-')} is for classifiers")
    if len(args.input) > 1:
        raise SpecError(f"got {len(args.input)} inputs: a bundle that makes audio takes one")
    from spectral_edge.runtimes.files import enhance_file

    with progress_bar(f"enhancing {Path(args.input[0]).name}") as tell:
        done = enhance_file(
            bundle,
            args.input[0],
            args.output,
            engine=args.engine,
            threads=args.threads,
            resample=args.resample,
            backend=args.backend,
            progress=tell,
        )
    p99 = done.hop_us["p99"]
    converted = f", resampled to {done.resampled_to} Hz and back" if done.resampled_to else ""
    _show(
        args,
        done,
        f"{done.target}: {done.samples / done.sample_rate:.2f} s, {done.channels} channel(s), "
        f"{done.sample_rate} Hz{converted}\n"
        f"{done.engine['engine']} {done.engine['version']}, front end in {done.frontend_backend}: "
        f"real-time factor {done.rtf:.4f}\n"
        f"{done.hops:,} hops: p50 {done.hop_us['p50']:.1f} µs, p95 {done.hop_us['p95']:.1f} µs, "
        f"p99 {'–' if p99 is None else f'{p99:.1f} µs'}, max {done.hop_us['max']:.1f} µs",
    )


def _run_classifier(args: argparse.Namespace, bundle: se.Bundle) -> None:
    from dataclasses import replace

    from spectral_edge.runtimes.classify_files import classify_files

    assert bundle.classifier is not None
    names = ("threshold", "refractory", "smoothing_seconds")
    changes = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    if "threshold" in changes:
        changes["thresholds"] = {}  # what is typed counts for every label
    with progress_bar(f"classifying {len(args.input)} file(s)") as tell:
        done = classify_files(
            bundle,
            args.input,
            args.output,
            engine=args.engine,
            threads=args.threads,
            resample=args.resample,
            backend=args.backend,
            policy=replace(bundle.classifier.policy, **changes),
            every_result=args.every_result,
            progress=tell,
        )
    _show(args, done)


def _live(args: argparse.Namespace) -> None:
    from spectral_edge.runtimes import live as runtime
    from spectral_edge.runtimes.scheduler.deadline import OverrunPolicy
    from spectral_edge.table import text_table

    if args.list_devices:
        devices = runtime.list_devices()
        keys = ("index", "name", "host", "inputs", "outputs", "sample_rate")
        rows = [
            [str(getattr(d, key)) for key in keys] + [" in" * d.is_input + " out" * d.is_output]
            for d in devices
        ]
        table = text_table([*keys, "default"], rows)
        _show(args, _Plain(devices=[vars(d) for d in devices]), table)
        return
    if args.bundle is None:
        raise SpecError("give a bundle: spectral-edge live denoiser.seb")
    settings = runtime.LiveSettings(
        input=_device(args.input),
        output=_device(args.output),
        sample_rate=args.rate,
        blocksize=args.blocksize,
        latency=args.latency if args.latency in ("low", "high") else _seconds(args.latency),
        channels=args.channels,
        policy=OverrunPolicy.parse(args.policy),
        seconds=args.seconds,
    )
    # a service manager ends it like Ctrl-C does
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    bundle = se.Bundle.load(args.bundle)
    if bundle.classifier is not None:
        try:
            _listen(args, bundle, settings)
        finally:
            signal.signal(signal.SIGTERM, before)
        return
    try:
        with runtime.meter() as tell:
            summary = runtime.live(
                args.bundle, settings, args.engine, args.threads, args.backend, tell
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    _show(args, summary)
    if summary.ended == "device":
        raise RuntimeUnfit(f"{summary.input} or {summary.output} stopped delivering audio")


def _device(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"latency is {text!r}, must be low, high or seconds") from None


def _listen(args: argparse.Namespace, bundle: se.Bundle, settings: Any) -> None:
    """Print every detection at once: a line of text, or with ``--json`` a line of JSON."""
    from spectral_edge.runtimes.listen import listen

    def tell(found: Any) -> None:
        where = f" channel {found.channel}" if args.channels > 1 else ""
        text = f"{found.time:8.2f} s{where}  {found.label}  {found.score:.2f}"
        print(json.dumps(found.to_dict()) if args.json else text, flush=True)

    summary = listen(bundle, settings, args.engine, args.threads, args.backend, tell)
    print(json.dumps(summary.to_dict()) if args.json else summary.table())
    if summary.ended == "device":
        raise RuntimeUnfit(f"{summary.input} stopped delivering audio")


def _bench(args: argparse.Namespace) -> None:
    with progress_bar(f"measuring {Path(args.bundle).name}") as tell:
        report = se.bench(
            args.bundle,
            engine=args.engine,
            seconds=args.seconds,
            audio=args.audio,
            threads=args.threads,
            target=args.target,
            repetitions=args.repetitions,
            paced=args.paced,
            cold_start=args.cold_start,
            backend=args.backend,
            progress=tell,
        )
    _show(args, report)
    hop = report.wall["hop"]
    seen, name = (hop.p95, "p95") if hop.p99 is None else (hop.p99, "p99")
    if args.gate_us is not None and seen > args.gate_us:
        raise LatencyGateFailed(
            f"{name} of a hop is {seen:.1f} µs, the gate is {args.gate_us:g} µs"
        )


def _check(args: argparse.Namespace) -> None:
    report = se.check(args.bundle, engines=args.engine, progress=_note)
    _show(args, report)
    if not report.passed:
        failed = [g.name for g in report.gates if not g.passed]
        failed += [e.engine for e in report.engines if e.status == "failed"]
        raise QualityGateFailed(
            f"parity of {args.bundle} failed: {', '.join(failed) or 'no engine ran'}; "
            "export the bundle again, or see spectral-edge doctor"
        )


def _compare(args: argparse.Namespace) -> None:
    from spectral_edge.runtimes.compare import compare

    c = compare(args.first, args.second, args.audio, args.engine, args.threads)
    difference = "identical" if c.si_sdr_db is None else f"SI-SDR {c.si_sdr_db:.1f} dB"
    counted = "samples"
    if c.score_difference is not None:
        difference, counted = f"scores differ by up to {c.score_difference:.4f}", "labels"
    (hop_a, hop_b), (model_a, model_b), (size_a, size_b) = c.hop_us, c.model_us, c.model_bytes
    _show(
        args,
        c,
        f"{c.second} against {c.first}, {c.seconds:.1f} s of audio on {c.engine}\n"
        f"outputs: {difference}, {100 * c.equal_samples:.2f} % of {counted} equal\n"
        f"hop:     {hop_b:.1f} µs against {hop_a:.1f} µs, {c.hop_ratio:.2f} times as fast\n"
        f"model:   {model_b:.1f} µs against {model_a:.1f} µs, {size_b:,} bytes against {size_a:,}",
    )
    if args.min_si_sdr is not None and c.si_sdr_db is not None and c.si_sdr_db < args.min_si_sdr:
        raise QualityGateFailed(
            f"SI-SDR between outputs is {c.si_sdr_db:.1f} dB, the gate is {args.min_si_sdr:g} dB"
        )


def _ablate(args: argparse.Namespace) -> None:
    from spectral_edge.training.ablations import EXPERIMENTS, run_ablation

    ids = list(EXPERIMENTS) if args.ids == ["all"] else args.ids
    for name in ids:
        with progress_bar(f"ablation {name}") as tell:
            table = run_ablation(
                name,
                args.preset,
                args.seeds,
                int8=args.int8,
                out=args.out,
                data_root=args.data,
                audio=args.audio,
                effort=args.effort,
                resume=args.resume,
                progress=lambda done, total, _: tell(done / max(total, 1)),
            )
        _show(args, table, table.to_text())


def _inspect(args: argparse.Namespace) -> None:
    if args.models:
        rows = se.models.model_table()
        plain = _Plain(models=[row.to_dict() for row in rows])
        _show(args, plain, se.models.models_as_text(rows))
        return
    if args.bundle is None:
        raise SpecError("inspect needs a bundle, or --models for the table of networks")
    from spectral_edge.inspection import inspect_bundle

    _show(args, inspect_bundle(args.bundle))


def _doctor(args: argparse.Namespace) -> None:
    from spectral_edge.runtimes.doctor import doctor

    diagnosis = doctor()
    _show(args, diagnosis)
    if not diagnosis.can_run:
        raise RuntimeUnavailable("no engine works here; pip install 'spectral-edge[litert]'")


def _compile(args: argparse.Namespace) -> None:
    from spectral_edge.step_c import write_source

    written = write_source(se.Bundle.load(args.bundle), Path(args.output), args.prefix)
    _show(args, _Plain(**written), written["call"])
    _note(f"wrote {written['source']} and {written['header']}, {written['kernels']} kernels")


def _report(args: argparse.Namespace) -> None:
    from spectral_edge.report_files import load_report, render_reports

    kind = Path(args.output).suffix.lstrip(".") if args.output else "md"
    page = render_reports([load_report(path) for path in args.reports], kind)
    if args.output:
        Path(args.output).write_text(page, "utf-8")
    _show(args, _Plain(output=args.output, page=page), args.output or page.rstrip())


# ---- verbs: model in, bundle out --------------------------------------------------------------


def _one_thread() -> None:
    """Tensors of one hop are so small that more threads only get in each other's way."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, later


def _demo(args: argparse.Namespace) -> None:
    _one_thread()
    from spectral_edge.demo.console import ConsoleProgress
    from spectral_edge.demo.pipeline import run_demo

    result = run_demo(wav=args.wav, out=args.out, progress=ConsoleProgress())
    _show(args, result, result.table())
    if not result.passed:
        raise QualityGateFailed(f"parity failed, see {result.page}")


def _train(args: argparse.Namespace) -> None:
    import yaml

    from spectral_edge.training.start import progress_bars, train_recipe

    with progress_bars() as progress:
        trained = train_recipe(
            args.recipe,
            out=args.out,
            data_root=args.data,
            resume=args.resume,
            progress=progress,
            overrides={key: yaml.safe_load(value) for key, value in args.set},
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several devices' processes one speaks
        _show(args, trained)


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as run.epochs=2")
    return key, value


def _quantize(args: argparse.Namespace) -> None:
    program, frontend, sequences = _program(args)
    with progress_bar("quantizing") as tell:
        quantized = se.quantize(
            program, sequences, recipe=args.recipe, progress=lambda _, i, n: tell(i / max(n, 1))
        )
    _export_program(args, quantized, frontend)


def _export(args: argparse.Namespace) -> None:
    program, frontend, sequences = _program(args)
    _export_program(args, program.with_(golden_inputs=sequences[0]), frontend)


def _export_program(args: argparse.Namespace, program: Any, frontend: Any) -> None:
    bundle = se.export(program, args.output, frontend=frontend, formats=tuple(args.formats))
    data = {"bundle": str(bundle.path), "sha256": bundle.sha256, "precision": bundle.precision}
    members = ", ".join(f"{n} {len(c):,} bytes" for n, c in bundle.members.items())
    _show(args, _Plain(**data), f"{bundle.path}: {bundle.precision}, {members}")


def _debug(args: argparse.Namespace) -> None:
    from spectral_edge.calibration.sensitivity import sensitivity
    from spectral_edge.table import text_table

    program, _, sequences = _program(args)
    quantized = se.quantize(program, sequences, recipe=args.recipe)
    worst = sensitivity(program, quantized, sequences)[: args.worst]
    rows = [[f"{t.sqnr_db:.1f}", t.op, t.name, t.module] for t in worst]
    data = [vars(t) for t in worst]
    _show(args, _Plain(tensors=data), text_table(["SQNR dB", "op", "tensor", "module"], rows))


def _program(args: argparse.Namespace) -> tuple[Any, se.StftFrontend, list[Any]]:
    """Return the step program of a checkpoint, its front end, and the calibration sequences."""
    _one_thread()
    files = _audio_files(Path(args.calibration), args.max_files)
    model, frontend, _ = se.models.load_checkpoint(args.checkpoint)
    sequences = list(frontend.sequences(files, max_seconds=CALIBRATION_SECONDS))
    example = sequences[0][0][:, :, :64]
    return se.streamify(model, example, time_dim=2), frontend, sequences


def _audio_files(folder: Path, limit: int) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise AudioError(
            f"no audio ({', '.join(AUDIO_SUFFIXES)}) in {folder}; give a folder of noisy speech"
        )
    step = max(1, len(found) // limit)
    return found[::step][:limit]


# ---- arguments --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        print(f"spectral-edge: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spectral-edge",
        description="Spectral networks from PyTorch to phones and Raspberry Pis.",
        epilog="Exit codes: 0 ok, 1 internal error, 2 bad input, 3 quality or parity gate failed, "
        "4 cannot run here, 5 latency gate failed.",
    )
    parser.add_argument("--version", action="version", version=f"spectral-edge {se.__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_model_verbs(verbs)
    _add_ablate_verb(verbs)
    _add_bundle_verbs(verbs)
    return parser


def _verb(
    verbs: Any, name: str, action: Callable[[argparse.Namespace], None], text: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  spectral-edge {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=action)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_model_verbs(verbs: Any) -> None:
    p = _verb(
        verbs, "demo", _demo, "the whole way once, from checkpoint to report", "--wav noisy.wav"
    )
    p.add_argument("--wav", help="audio to enhance; the embedded sample when not given")
    p.add_argument(
        "--out", default="demo-out", help="folder for the results (default: %(default)s)"
    )

    p = _verb(
        verbs, "train", _train, "train a network by a recipe", "denoise_s --data ~/data --out runs"
    )
    p.add_argument("recipe", help="name of a shipped recipe or path of a YAML file")
    p.add_argument("--data", help="folder that the recipe's folders are relative to")
    p.add_argument("--out", default="runs", help="folder for runs (default: %(default)s)")
    p.add_argument("--resume", action="store_true", help="go on where the run was stopped")
    p.add_argument(
        "--set", action="append", default=[], type=_key_and_value, metavar="KEY=VALUE",
        help="change a recipe key, such as run.epochs=2 or run.devices=4",
    )  # fmt: skip

    p = _verb(
        verbs,
        "quantize",
        _quantize,
        "checkpoint to int8 bundle: streamify, calibrate, export",
        "runs/denoise_s/best.pt denoiser.seb --calibration noisy/",
    )
    _add_checkpoint_arguments(p)
    p.add_argument("--recipe", default="w8a8", help="quantisation recipe (default: %(default)s)")

    p = _verb(
        verbs,
        "export",
        _export,
        "checkpoint to float32 bundle: streamify, export",
        "runs/denoise_s/best.pt denoiser-float32.seb --calibration noisy/",
    )
    _add_checkpoint_arguments(p)

    p = _verb(
        verbs,
        "debug",
        _debug,
        "list the tensors that suffer most from int8",
        "runs/denoise_s/best.pt --calibration noisy/",
    )
    _add_checkpoint_arguments(p, output=False)
    p.add_argument("--recipe", default="w8a8", help="quantisation recipe (default: %(default)s)")
    p.add_argument("--worst", type=int, default=20, help="tensors to list (default: %(default)s)")


def _add_ablate_verb(verbs: Any) -> None:
    p = _verb(
        verbs,
        "ablate",
        _ablate,
        "run experiments on the networks, each with table and plot",
        "S1 F3 --preset toy --seeds 3 --int8 --out ablations",
    )
    p.add_argument("ids", nargs="+", help="S1 … S10, D1 … D8, F1 … F10, X1, or all")
    p.add_argument(
        "--preset", choices=("toy", "full"), default="toy", help="synthetic or real data"
    )
    p.add_argument("--seeds", type=int, default=3, help="repetitions (default: %(default)s)")
    p.add_argument(
        "--int8", action="store_true", help="quantise each network and report the change"
    )
    p.add_argument("--out", default="ablations", help="folder for results (default: %(default)s)")
    p.add_argument("--data", help="folder of real data, for --preset full")
    p.add_argument(
        "--audio", choices=("keywords", "esc10"), default="keywords", help="sounds of --preset full"
    )
    p.add_argument("--effort", type=float, default=1.0, help="share of the training (a quick look)")
    p.add_argument(
        "--resume", action="store_true", help="keep the finished runs in --out and do the others"
    )


def _add_checkpoint_arguments(p: argparse.ArgumentParser, output: bool = True) -> None:
    p.add_argument("checkpoint", help=".pt file written by training")
    if output:
        p.add_argument("output", help="bundle to write: NAME.seb, or a directory")
        p.add_argument(
            "--formats",
            nargs="+",
            choices=("tflite", "onnx"),
            default=("tflite", "onnx"),
            help="model files to put in (default: both)",
        )
    p.add_argument("--calibration", required=True, help="folder with noisy speech, searched below")
    p.add_argument("--max-files", type=int, default=32, help="files to use (default: %(default)s)")


def _add_bundle_verbs(verbs: Any) -> None:
    p = _verb(verbs, "check", _check, "golden rollout on every installed engine", "denoiser.seb")
    p.add_argument("bundle")
    p.add_argument(
        "--engine", nargs="+", choices=ENGINE_NAMES, help="default: all but native that apply"
    )

    p = _verb(
        verbs,
        "run",
        _run,
        "enhance an audio file, or find labels in files",
        "denoiser.seb noisy.wav clean.wav\n"
        "  spectral-edge run keywords.seb speech.wav detections.json",
    )
    p.add_argument("bundle")
    p.add_argument(
        "input",
        nargs="+",
        help="audio file of any rate and number of channels; of a classifier several, or pictures",
    )
    p.add_argument("output", help="file to write: .wav or .flac; of a classifier .json or .csv")
    p.add_argument("--threshold", type=float, help="least score of a detection, for all labels")
    p.add_argument("--refractory", type=float, help="seconds without another detection")
    p.add_argument("--smoothing-seconds", type=float, help="over which scores are averaged")
    p.add_argument(
        "--every-result", action="store_true", help="write the label of every step, not detections"
    )
    p.add_argument(
        "--resample",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="convert other sample rates on the way in and out (default: on)",
    )
    _add_engine_arguments(p)

    p = _verb(
        verbs,
        "live",
        _live,
        "enhance or label what a microphone hears, until Ctrl-C",
        "denoiser.seb --input USB --output Headphones",
    )
    p.add_argument("bundle", nargs="?")
    p.add_argument("--input", help="device number or part of its name (default: the system's)")
    p.add_argument("--output", help="the same for the output")
    p.add_argument("--list-devices", action="store_true", help="show the sound devices and end")
    p.add_argument("--rate", type=int, help="Hz (default: the bundle's, if the device has it)")
    p.add_argument("--blocksize", type=int, help="samples per callback (default: one hop; 0: any)")
    p.add_argument("--latency", default="low", help="low, high or seconds (default: %(default)s)")
    p.add_argument("--channels", type=int, default=1, help="of the input (default: %(default)s)")
    p.add_argument(
        "--policy",
        default="bypass",
        help="for a hop that comes too late: drop, bypass or queue:HOPS (default: %(default)s)",
    )
    p.add_argument("--seconds", type=float, help="of audio (default: until Ctrl-C)")
    _add_engine_arguments(p)

    p = _verb(verbs, "bench", _bench, "measure latency per hop", "denoiser.seb --seconds 30 --json")
    p.add_argument("bundle")
    p.add_argument(
        "--seconds", type=float, default=10, help="time to measure (default: %(default)s)"
    )
    p.add_argument("--audio", help="file to feed; a speech-like noise when not given")
    p.add_argument("--repetitions", type=int, default=5, help="default: %(default)s")
    p.add_argument("--paced", action="store_true", help="also feed hops at their real rate")
    p.add_argument(
        "--cold-start",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also start fresh processes (default: on)",
    )
    p.add_argument("--target", help="another machine; this release measures only this one")
    p.add_argument("--gate-us", type=float, help="exit 5 when p99 of a hop is above this many µs")
    _add_engine_arguments(p)

    p = _verb(
        verbs,
        "compare",
        _compare,
        "two bundles on the same audio: difference and speed",
        "denoiser-float32.seb denoiser.seb --audio noisy.wav",
    )
    p.add_argument("first", help="bundle taken as reference")
    p.add_argument("second")
    p.add_argument("--audio", help="file to feed; a speech-like noise when not given")
    p.add_argument("--min-si-sdr", type=float, help="exit 3 when the outputs differ by more (dB)")
    p.add_argument("--engine", choices=ENGINE_NAMES)
    p.add_argument("--threads", type=int, default=1)

    p = _verb(verbs, "report", _report, "one page from JSON reports", "bench.json -o report.html")
    p.add_argument("reports", nargs="+", help="files written with --json")
    p.add_argument("-o", "--output", help="page to write: .md or .html (default: print markdown)")

    p = _verb(verbs, "inspect", _inspect, "show what is in a bundle", "denoiser.seb")
    p.add_argument("bundle", nargs="?")
    p.add_argument("--models", action="store_true", help="count every network instead")

    p = _verb(
        verbs, "compile", _compile, "write the step as one C file", "denoiser.seb -o denoiser.c"
    )
    p.add_argument("bundle")
    p.add_argument("-o", "--output", required=True, help="C file; the header is put beside it")
    p.add_argument("--prefix", help="of the functions' names (default: the file's name)")

    _verb(verbs, "doctor", _doctor, "what works on this machine, and what to install", "")


def _add_engine_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--engine", choices=ENGINE_NAMES, help="default: the first that is installed")
    p.add_argument("--threads", type=int, default=1, help="of the engine (default: %(default)s)")
    p.add_argument(
        "--backend",
        choices=("auto", "c", "numpy"),
        default="auto",
        help="front end arithmetic, all with the same bits (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
