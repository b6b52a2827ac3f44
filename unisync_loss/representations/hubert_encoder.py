"""HuBERT encoder: features of clips of any length, two steps per video frame.

``transformers`` computes them and is imported when there is a waveform to encode.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unisync_loss.config import SAMPLE_RATE
from unisync_loss.representations.audio_encoder import HOP, AudioEncoder, fit_steps
from unisync_loss.utils.files import read_json, recognise_file
from unisync_loss.utils.model_files import (
    CONFIG,
    OLD_WEIGHTS,
    WEIGHTS,
    ModelFiles,
    find_model,
    read_sizes,
)

if TYPE_CHECKING:
    from transformers import HubertModel


_FIELD = 400  # samples that one step is computed from
_PREPROCESSOR = "preprocessor_config.json"
_CHUNK = 1000  # steps that the convolutions compute at once, 20 s
#: what of a model's config is used, and nothing else of it: sizes, with several times those of the largest HuBERT …
_MOST = {
    "hidden_size": 8192,
    "num_hidden_layers": 128,
    "num_attention_heads": 128,
    "intermediate_size": 32768,
    "num_conv_pos_embeddings": 1024,
    "num_conv_pos_embedding_groups": 1024,
}
_MOST_CONVOLUTION = {"conv_dim": 4096, "conv_kernel": 1024, "conv_stride": 1024}  # of each of its layers
_MOST_VOCABULARY = {"vocab_size": 1_000_000}
#: … and switches
_CHOICES: dict[str, tuple[object, ...]] = {
    "hidden_act": ("gelu", "relu"),
    "feat_extract_activation": ("gelu", "relu"),
    "feat_extract_norm": ("group", "layer"),
    "feat_proj_layer_norm": (True, False),
    "conv_bias": (False, True),
    "conv_pos_batch_norm": (False, True),
    "do_stable_layer_norm": (False, True),
}
#: part of the cache key of audio encoded at once, and of longer audio: increased when the features change
_CACHE_VERSIONS = 1, 2


class HubertEncoder(AudioEncoder[nn.ModuleDict]):
    """A frozen HuBERT: waveforms → features.

    Audio of up to 30 s is encoded at once, as in training; see :class:`AudioEncoder` for longer audio. Each segment is
    standardised where the model's preprocessor asks for it. The convolutions, whose first layer holds 64 times as much
    as the features, run chunk by chunk with the same result (the statistics of a group norm are taken over all chunks
    first). The last step would need 80 samples after the end of the audio; it repeats the one before (GeneFace's rule).

    Args:
        model: with its weights; its feature extractor is taken out of it.
        layer: as in ``hidden_states`` of transformers, 0 the input of the first layer; -1 is ``last_hidden_state``.
        normalize: bring waveforms to mean 0 and deviation 1.
        identity: identifier of the weights, a commit or a sha256.
        dtype: in which the model computes, float32, float16 or bfloat16.

    Shape:
        (B, S) → (B, L, F).

    Raises:
        ValueError: for a layer that the model does not have, or a model of another rate than 50 steps a second.
    """

    kind = "HuBERT"
    context = 250  # 5 s

    def __init__(
        self,
        model: HubertModel,
        *,
        layer: int = -1,
        normalize: bool = True,
        identity: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        config = model.config
        if not -1 <= layer <= config.num_hidden_layers:
            raise ValueError(f"audio_layer: expected -1 … {config.num_hidden_layers}, got {layer}")
        if math.prod(config.conv_stride) != HOP:
            raise ValueError(f"expected a HuBERT of 50 steps a second, got strides {tuple(config.conv_stride)}")
        convolutions = model.feature_extractor.conv_layers
        model.feature_extractor = nn.Identity()  # the convolutions run chunk by chunk, see _convolve
        parts = nn.ModuleDict({"convolutions": convolutions, "transformer": model})
        super().__init__(parts, width=config.hidden_size, layer=layer, identity=identity, dtype=dtype)
        self.normalize = normalize
        self._group_norm = config.feat_extract_norm == "group"

    @classmethod
    def find(cls, name: str, revision: str) -> ModelFiles:
        """Find the files of a model, of which older ones have no safetensors."""
        return find_model(name, revision, count_parameters, (CONFIG, _PREPROCESSOR), (WEIGHTS, OLD_WEIGHTS))

    @classmethod
    def load(cls, files: ModelFiles, layer: int, dtype: torch.dtype) -> HubertEncoder:
        """Build an encoder from its files; see :meth:`AudioEncoder.from_pretrained`.

        Raises:
            ValueError: as there.
            ImportError: without transformers.
        """
        if found := recognise_file(files.weights):
            raise ValueError(f"{files.weights.name}: expected weights, got {found}")
        model, preprocessor = _load_model(files), read_json(files.folder / _PREPROCESSOR)
        if preprocessor.get("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
            raise ValueError(f"expected a model of 16000 Hz, got {preprocessor['sampling_rate']}")
        normalize = bool(preprocessor.get("do_normalize", True))
        return cls(model, layer=layer, normalize=normalize, identity=files.identity, dtype=dtype)

    def cache_key(self, steps: int) -> str:
        """Everything but the samples that ``steps`` steps of features depend on."""
        version = _CACHE_VERSIONS[steps > self.longest]
        return f"{version} {self.identity} {self.layer} {self.normalize} {self.dtype} "

    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a float32 waveform (B, S) at once: (B, S / 320 rounded, F) float32."""
        if self.normalize:
            waveform = standardise(waveform)
        features = self._hidden(self._convolve(waveform.to(self.dtype))).float()
        return fit_steps(features, round(waveform.shape[1] / HOP))

    def _convolve(self, waveform: Tensor) -> Tensor:
        """Convolutions chunk by chunk, (B, S) → (B, C, steps)."""
        moments = self._moments(waveform) if self._group_norm else None
        steps = (waveform.shape[1] - _FIELD) // HOP + 1
        chunks = []
        for start in range(0, steps, _CHUNK):
            last = min(start + _CHUNK, steps) - 1
            hidden = waveform[:, None, HOP * start : HOP * last + _FIELD]
            for index, layer in enumerate(self._convolutions()):
                if index == 0 and moments is not None:
                    mean, deviation = moments
                    hidden = (layer.conv(hidden) - mean) / deviation
                    scale, shift = layer.layer_norm.weight, layer.layer_norm.bias
                    hidden = layer.activation(hidden * scale[:, None] + shift[:, None])
                else:
                    hidden = layer(hidden)
            chunks.append(hidden)
        return torch.cat(chunks, dim=2)

    def _convolutions(self) -> list[Any]:
        """Layers of ``transformers``, from the waveform on."""
        return list(self.network["convolutions"].children())

    def _moments(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the first convolution's output over the whole clip, (B, C, 1) each."""
        first = self._convolutions()[0]
        kernel, stride = first.conv.kernel_size[0], first.conv.stride[0]
        count = (waveform.shape[1] - kernel) // stride + 1
        sums: list[Tensor] = []
        for start in range(0, count, _CHUNK * HOP // stride):
            last = min(start + _CHUNK * HOP // stride, count) - 1
            # float64: the variance is a difference of sums over the whole clip
            values = first.conv(waveform[:, None, stride * start : stride * last + kernel]).double()
            sums.append(torch.stack([values.sum(2, keepdim=True), values.square().sum(2, keepdim=True)]))
        mean, square = torch.stack(sums).sum(0) / count
        deviation = (square - mean.square() + first.layer_norm.eps).sqrt()
        return mean.to(self.dtype), deviation.to(self.dtype)

    def _hidden(self, features: Tensor) -> Tensor:
        """Transformer, (B, C, steps) → (B, steps, F)."""
        transformer = self.network["transformer"]
        if self.layer == -1:  # without keeping the states of all layers
            last: Tensor = transformer(features).last_hidden_state
            return last
        states = transformer(features, output_hidden_states=True).hidden_states
        assert states is not None
        chosen: Tensor = states[self.layer]
        return chosen


def standardise(waveform: Tensor) -> Tensor:
    """Waveforms (B, S) of mean 0 and deviation 1 each."""
    mean, variance = waveform.mean(1, keepdim=True), waveform.var(1, correction=0, keepdim=True)
    return (waveform - mean) / (variance + 1e-7).sqrt()  # as transformers' Wav2Vec2FeatureExtractor


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    """Take the numbers and switches of the network out of a ``config.json``, and nothing else.

    Other fields name code: implementations of attention, quantisers, modules of the repository.

    Raises:
        ValueError: for another kind of model, or a value that is missing, impossible or absurd.
    """
    if (kind := config.get("model_type")) != "hubert":
        raise ValueError(f"{CONFIG}: expected a model of type 'hubert', got {kind!r:.60}")
    usual: dict[str, Any] = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}
    taken: dict[str, Any] = read_sizes(usual | config, _MOST)
    for name, divisor in (("num_attention_heads", "heads"), ("num_conv_pos_embedding_groups", "groups")):
        if taken["hidden_size"] % taken[name]:
            got = taken["hidden_size"]
            raise ValueError(f"{CONFIG}: hidden_size: expected a multiple of {taken[name]} {divisor}, got {got}")
    for name, most in _MOST_CONVOLUTION.items():
        values = config.get(name)
        if not isinstance(values, list) or not 1 <= len(values) <= 16:
            raise ValueError(f"{CONFIG}: {name}: expected 1 to 16 whole numbers, got {values!r:.60}")
        taken[name] = [read_sizes({name: value}, {name: most})[name] for value in values]
    if len({len(taken[name]) for name in _MOST_CONVOLUTION}) != 1:
        raise ValueError(f"{CONFIG}: expected as many {', '.join(_MOST_CONVOLUTION)}")
    for name, choices in _CHOICES.items():
        value = config.get(name, choices[0])
        if not any(value is choice or value == choice for choice in choices if type(value) is type(choice)):
            raise ValueError(f"{CONFIG}: {name}: expected one of {choices}, got {value!r:.60}")
        taken[name] = value
    epsilon = config.get("layer_norm_eps", 1e-5)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ValueError(f"{CONFIG}: layer_norm_eps: expected a number in (0, 1), got {epsilon!r:.60}")
    return taken | {"layer_norm_eps": epsilon}


def count_parameters(config: dict[str, Any]) -> int:
    """Number of parameters of a HuBERT, with the layer of letters that some are fine-tuned with."""
    taken = read_config(config)
    vocabulary = read_sizes({"vocab_size": 32} | config, _MOST_VOCABULARY)["vocab_size"]
    width, ffn = taken["hidden_size"], taken["intermediate_size"]
    channels, kernel = taken["conv_dim"], taken["num_conv_pos_embeddings"]
    convolutions = zip([1, *channels], channels, taken["conv_kernel"], strict=False)
    total = sum(before * after * size + 3 * after for before, after, size in convolutions)
    total += channels[-1] * (width + 2) + width
    total += width * (width // taken["num_conv_pos_embedding_groups"]) * kernel + kernel + 8 * width
    total += taken["num_hidden_layers"] * (4 * width**2 + 2 * width * ffn + ffn + 9 * width)
    return int(total + vocabulary * (width + 1))


def _load_model(files: ModelFiles) -> HubertModel:
    """Build the model from local files, which must contain every weight.

    PyTorch reads ``pytorch_model.bin`` with its restricted unpickler, which runs no code of the file.
    """
    taken = read_config(read_json(files.folder / CONFIG))
    try:
        from transformers import HubertConfig, HubertModel
    except ImportError as error:
        raise ImportError("HuBERT needs transformers: pip install 'transformers>=4.37'") from error
    # transformers would also read adapters and shards of the model's folder: it gets one with the weights alone
    with _quiet(), torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as scratch:
        _place(files.weights.resolve(), Path(scratch, files.weights.name))
        try:
            model, found = HubertModel.from_pretrained(
                scratch, config=HubertConfig(**taken), local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # the parsers of weights and config raise their own types
            kinds = _kinds(error)
            if "UnpicklingError" in kinds:  # the text of PyTorch's own advises loading without its restrictions
                raise ValueError(f"{OLD_WEIGHTS}: expected tensors and nothing else, got other objects") from error
            raise ValueError(f"cannot be loaded ({kinds[0]}: {' '.join(str(error).split())[:300]})") from error
    # transformers fills gaps with random weights; names and shapes differ between its versions, so it matches them
    missing = sorted(set(found["missing_keys"]) - {"masked_spec_embed"})  # used in pre-training only
    if missing:
        raise ValueError(f"{files.folder}: lacks {len(missing)} weights of the model, such as {missing[0]}")
    loaded: HubertModel = model
    return loaded


def _place(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # Windows reserves links for administrators
        shutil.copyfile(source, target)


def _kinds(error: BaseException | None) -> list[str]:
    """Types of an error and of those it was raised from: transformers 4 raises its own from PyTorch's."""
    return [] if error is None else [type(error).__name__, *_kinds(error.__context__)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and reports of loading; the missing keys are checked."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
