"""Networks, each a plain ``nn.Module`` with one ``forward`` over a clip."""

from __future__ import annotations

from .ast import Ast, AstSize, ast_model
from .aum import Aum, AumSize, aum_model
from .checkpoint import load_checkpoint, save_checkpoint
from .classifiers import CLASSIFIERS, build_classifier
from .counters import ModelRow, model_table, models_as_text
from .dsm import Dsm, DsmSize, dsm_model, prepare_integer_spectrum
from .dsm_stream import DsmStream, DsmStreamSize, dsm_stream_model
from .registry import MODELS, build
from .saf import SafEdge, saf_edge_l, saf_edge_m, saf_edge_nano, saf_edge_s, saf_edge_xs
from .saf_paper import SafPaper, SafPaperOptions, saf_paper

__all__ = [
    "CLASSIFIERS",
    "MODELS",
    "Ast",
    "AstSize",
    "Aum",
    "AumSize",
    "Dsm",
    "DsmSize",
    "DsmStream",
    "DsmStreamSize",
    "ModelRow",
    "SafEdge",
    "SafPaper",
    "SafPaperOptions",
    "ast_model",
    "aum_model",
    "build",
    "build_classifier",
    "dsm_model",
    "dsm_stream_model",
    "load_checkpoint",
    "model_table",
    "models_as_text",
    "prepare_integer_spectrum",
    "saf_edge_l",
    "saf_edge_m",
    "saf_edge_nano",
    "saf_edge_s",
    "saf_edge_xs",
    "saf_paper",
    "save_checkpoint",
]
