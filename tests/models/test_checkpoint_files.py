"""Checkpoints: what comes back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectral_edge.errors import SpecError
from spectral_edge.frontend import StftFrontend
from spectral_edge.models import build, load_checkpoint, save_checkpoint

FRONTEND = StftFrontend(n_fft=320, hop_length=160)


def _save(path: Path, *, half: bool = False) -> dict[str, torch.Tensor]:
    weights = build("saf_edge_nano", FRONTEND).state_dict()
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_checkpoint(path, "saf_edge_nano", FRONTEND, weights, {"epoch": 3, "note": ["plain"]})
    return weights


@pytest.mark.parametrize("half", [False, True])
def test_weights_front_end_and_info_come_back(tmp_path: Path, half: bool) -> None:
    weights = _save(tmp_path / "a.pt", half=half)
    model, frontend, info = load_checkpoint(tmp_path / "a.pt")
    assert frontend == FRONTEND
    assert info == {"epoch": 3, "note": ["plain"]}
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name].to(value.dtype)), name
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_options_of_the_network_come_back(tmp_path: Path) -> None:
    weights = build("saf_edge_nano", FRONTEND, lookahead=2).state_dict()
    save_checkpoint(
        tmp_path / "a.pt", "saf_edge_nano", FRONTEND, weights, {}, options={"lookahead": 2}
    )
    model, _, _ = load_checkpoint(tmp_path / "a.pt")
    assert model.layers[0][1].along_time[0].lookahead == 2


def test_missing_file_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no\.pt does not exist: pass a \.pt file"):
        load_checkpoint(tmp_path / "no.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02."])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.pt"
    path.write_bytes(content)
    with pytest.raises(SpecError, match="cannot be read"):
        load_checkpoint(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    _save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SpecError, match="cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a spectral-edge checkpoint"),
        ({"extra": 1}, "is not a spectral-edge checkpoint"),
        ({"version": 2}, "has version 2, this release reads 1"),
        ({"model": "saf_edge_xs"}, "does not fit saf_edge_xs"),
        ({"model": "nothing"}, "model is 'nothing'"),
    ],
)
def test_changed_content_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "a.pt"
    _save(path)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(SpecError, match=message):
        load_checkpoint(path)
