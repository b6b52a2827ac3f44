"""Export of an expert to graphs that run without this package: ONNX, or PyTorch's ``.pt2``.

Two graphs, or three: ``visual`` and ``audio`` give the embeddings (B, W, D) of every window, ``features`` the mel
spectrogram of a waveform. HuBERT and Whisper are not exported: their features come from ``unisync features``, or from
another runtime's copy of them. The probability of a window is the cosine of its two embeddings after ReLU, eq. 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.config import LANDMARK_SHAPES, PARSING_GROUPS, SAMPLE_RATE, SAMPLES_PER_FRAME, UniSyncConfig
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.layers import fold_batch_norms
from unisync_loss.models.small import DenseAudioTower
from unisync_loss.utils.files import atomic_path, write_atomically
from unisync_loss.utils.tensors import check_choice

#: of frames on each side, pixels; larger ones are reduced first
SMALLEST, LARGEST = 65, 256
LEAST_FRAMES = 6  # PyTorch treats the length of a single window as fixed
_LONGEST, _MOST = 90_000, 4096  # frames (an hour) and clips
_OLDEST = (2, 5)  # PyTorch whose ONNX exporter takes exported programs


class _Visual(nn.Module):
    """Frames, or what else the expert takes → embeddings."""

    def __init__(self, expert: UniSyncExpert) -> None:
        super().__init__()
        self.input, self.tower = expert.visual_input, expert.visual_tower

    def forward(self, video: Tensor) -> Tensor:
        embedding: Tensor = self.tower(self.input(video))
        return embedding


class _Audio(nn.Module):
    """Features (B, L, F) → embeddings of as many windows as they cover."""

    def __init__(self, expert: UniSyncExpert) -> None:
        super().__init__()
        tower = expert.audio_tower
        assert isinstance(tower, DenseAudioTower)
        self.network, self.mel, self.steps = tower.network, tower.mel, expert.config.window_steps
        self.period = expert.config.steps_per_frame.as_integer_ratio()

    def forward(self, features: Tensor) -> Tensor:
        steps, frames = self.period
        windows = (frames * (features.shape[1] - self.steps) + frames - 1) // steps + 1
        layout = "b l f -> b 1 f l" if self.mel else "b l f -> b f 1 l"
        dense = rearrange(self.network(rearrange(features, layout)), "b d 1 l -> b l d")
        # the slices of `take_steps` compare lengths, which a graph of any length cannot
        return dense.index_select(1, torch.arange(windows, device=dense.device) * steps // frames)


class _Mel(nn.Module):
    """Waveform (B, S) → mel steps (B, L, 80)."""

    def __init__(self, expert: UniSyncExpert) -> None:
        super().__init__()
        self.input = expert.audio_input

    def forward(self, waveform: Tensor) -> Tensor:
        features: Tensor = self.input.encode(waveform)
        return features


def export_expert(
    expert: UniSyncExpert,
    folder: str | os.PathLike[str],
    file_format: str = "onnx",
    *,
    log: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write the graphs of an expert, and its ``config.json``.

    Inputs, all float32: ``video`` as the expert takes it, T at least 6 and images of 65 to 256 pixels a side;
    ``features`` (B, L, F), mel with its steps first; ``waveform`` (B, S) at 16 kHz. Batch, time and size of images are
    dynamic.

    Args:
        expert: ``small``, on a CPU.
        folder: created if missing.
        file_format: ``"onnx"`` or ``"pt2"``.
        log: takes lines of progress.

    Returns:
        The files of the graphs.

    Raises:
        ValueError: for the ``paper`` architecture, another format, or PyTorch before 2.5.
        ImportError: for ``"onnx"`` without onnx and onnxscript.
    """
    check_choice("format", file_format, "onnx", "pt2")
    if expert.config.architecture != "small":
        raise ValueError(f"expected an expert of the small architecture, got {expert.config.architecture!r}")
    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST:
        raise ValueError(f"export: expected PyTorch {'.'.join(map(str, _OLDEST))} or newer, got {torch.__version__}")
    if file_format == "onnx":
        _check_onnx()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folded, files = fold_batch_norms(expert), []
    for name, network, example, axes in _graphs(folded):
        files.append(folder / f"{name}.{file_format}")
        log(f"{files[-1]}: tracing, about 20 seconds")
        with torch.no_grad():
            program = torch.export.export(network.eval(), (example,), dynamic_shapes=(axes,), strict=True)
        with atomic_path(files[-1]) as temporary:
            _write(program, temporary, file_format)
    write_atomically(folder / "config.json", expert.config.to_json())
    return files


def _graphs(expert: UniSyncExpert) -> list[tuple[str, nn.Module, Tensor, dict[int, Any]]]:
    """Name, network, example and dynamic axes of each graph."""
    config = expert.config
    dim = torch.export.Dim
    batch, frames = dim("batch", min=1, max=_MOST), dim("frames", min=LEAST_FRAMES, max=_LONGEST)
    steps = dim("steps", min=2 * config.window_steps, max=4 * _LONGEST)
    video = _example(config)
    axes = {0: batch, 1: frames}
    if expert.visual_input.is_image:
        axes |= {3: dim("height", min=SMALLEST, max=LARGEST), 4: dim("width", min=SMALLEST, max=LARGEST)}
    features = torch.randn(2, 3 * config.window_steps, config.audio_features)
    graphs: list[tuple[str, nn.Module, Tensor, dict[int, Any]]] = [
        ("visual", _Visual(expert), video, axes),
        ("audio", _Audio(expert), features, {0: batch, 1: steps}),
    ]
    if config.audio == "mel":
        samples = dim("samples", min=SAMPLE_RATE // 5, max=SAMPLES_PER_FRAME * _LONGEST)
        graphs.append(("features", _Mel(expert), torch.randn(2, SAMPLE_RATE) / 10, {0: batch, 1: samples}))
    return graphs


def _example(config: UniSyncConfig) -> Tensor:
    """Two clips of nine frames; sizes that differ from each other and from those of the networks."""
    if config.visual == "rgb":
        return torch.rand(2, 9, 3, 96, 112)
    if config.visual == "parsing":
        return torch.softmax(torch.randn(2, 9, len(PARSING_GROUPS), 96, 112), 2)
    if config.visual == "3dmm":
        return torch.randn(2, 9, config.visual_features)
    return torch.rand(2, 9, *LANDMARK_SHAPES[config.visual_features])


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("the export to ONNX needs onnx and onnxscript: pip install 'unisync_loss[export]'") from error


def _write(program: torch.export.ExportedProgram, path: Path, file_format: str) -> None:
    if file_format == "pt2":
        torch.export.save(program, path)
        return
    # the names of the inputs are those of the forward methods
    graph = torch.onnx.export(program, (), dynamo=True, output_names=["output"], verbose=False)
    assert graph is not None
    graph.save(path, external_data=False)
