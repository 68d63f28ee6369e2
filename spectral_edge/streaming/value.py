"""What a clip tensor looks like from inside one hop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import fx

from spectral_edge.errors import NotStreamable

__all__ = ["Pair", "Refused", "StaticPair", "Value", "module_path", "refusal", "where"]


@dataclass(frozen=True)
class Value:
    """A clip tensor as one hop sees it.

    Attributes:
        node: node of the step graph that holds the newest frames.
        clip: node of the clip graph it stands for.
        axis: time axis, None for a tensor without time.
        offset: frames (at this tensor's rate) by which the newest frames lag behind the input.
        rate: frames of this tensor per input frame.
        fold: (outer, inner) sizes merged with time into ``axis``; (1, 1) when the axis is time
        alone. past: input frames before the aligned one that it depends on.
        first: index of the last of the equal frames with which it begins (replicate padding);
            None when it does not begin with copies of a frame of the clip.
    """

    node: fx.Node
    clip: fx.Node
    axis: int | None = None
    offset: int = 0
    rate: Fraction = Fraction(1)
    fold: tuple[int, int] = (1, 1)
    past: Fraction = Fraction(0)
    first: int | None = None

    @property
    def pure(self) -> bool:
        """True when the time axis is not merged with another one."""
        return self.axis is not None and self.fold == (1, 1)


@dataclass(frozen=True)
class Refused:
    """A tensor that has no streaming form; using it raises ``error``, ignoring it is fine."""

    error: NotStreamable


@dataclass(frozen=True)
class Pair:
    """Scores or weights of frames against a window of frames, oldest first.

    Attributes:
        node: node of the step graph, [..., queries, keys].
        clip: node of the clip graph it stands for, [..., T, T].
        query: time of the queries.
        window: frames up to a query that it sees.
        ahead: frames after a query that it sees.
        mask: what is masked, until it has been applied.
        applied: clip node that applies the mask, None when it has been applied.
    """

    node: fx.Node
    clip: fx.Node
    query: Value
    window: int
    ahead: int = 0
    mask: Any = None
    applied: fx.Node | None = None


@dataclass(frozen=True)
class StaticPair:
    """A tensor over pairs of frames that depends on the number of frames only: a mask."""

    clip: fx.Node


def refusal(node: fx.Node, why: str, instead: str) -> NotStreamable:
    """Return the error that says where, what, why and what to write instead."""
    return NotStreamable(f"{where(node)}: {why}. {instead[0].upper()}{instead[1:]}.")


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the innermost module a node was traced in."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return re.sub(r"^L\['self'\]\.?", "", paths[-1]) if paths else ""


def where(node: fx.Node) -> str:
    """Return module path, op and source line of a node as one phrase."""
    op = str(getattr(node.target, "name", lambda: node.target)())
    lines = [s.strip() for s in (node.meta.get("stack_trace") or "").splitlines()]
    files = [s for s in lines if s.startswith("File ")]
    place = ""
    if files:
        match = re.match(r'File "(.+)", line (\d+)', files[-1])
        if match:
            place = f" ({match[1].rsplit('/', 1)[-1]}:{match[2]})"
    return f"module {module_path(node) or '(root)'}, op {op}{place}"
