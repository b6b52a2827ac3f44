"""Random calls of the loss on all bundled experts: shapes, dtypes, strides, NaN, masks, weights, options.

    python -m tests.helpers.random_calls --count 10000 --seed 0

A call ends well with a finite result of the right shape, with NaN where it was given NaN or infinity, or with a
ValueError or TypeError that a ``raise`` of this package made. Half of the calls have no fault, and must not be refused.
"""

import argparse
import contextlib
import linecache
import traceback
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch

import unisync_loss
from unisync_loss import UniSyncLoss, list_pretrained, load_expert

PACKAGE = str(Path(unisync_loss.__file__).parent)
NAMES = sorted(list_pretrained())
FLOATS = [torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]
#: what a fault puts in the place of an argument
NONSENSE = [None, True, "mel", 3, [0.5], np.zeros((2, 5), np.float32), torch.tensor(1.0), torch.zeros(0)]
#: what it puts in the place of a number or an option
NO_NUMBERS = [0, -1, -7, 2.5, 2**40, "max", "3", None, True, float("nan"), torch.tensor(2), torch.tensor([2, 3]), 3]
#: optional arguments by method, and those that are no tensors
KEYWORDS = {
    "encode_audio": ["stride", "frames"],
    "score": ["audio_embedding", "frames", "boxes", "mask", "per_window"],
    "forward": ["audio_embedding", "frames", "boxes", "mask", "return_terms"],
}
KEYWORDS["forward"] += ["weights", "video_real", "stride", "windows", "grad_frames", "reduction"]
NUMBERS = {"stride", "windows", "grad_frames", "reduction", "frames", "return_terms", "per_window"}


class Wrong(Exception):
    """A call that ended in another way than it may."""


@cache
def expert_of(name):
    return load_expert(name)


@cache
def loss_of(name, options):
    return UniSyncLoss(expert_of(name), **dict(options))


class Call:
    """One call, drawn from a seed.

    Attributes:
        faults: names of what is wrong with it; none in half of the calls.
        bad_values: whether NaN or infinity was put in.
    """

    def __init__(self, seed, number):
        self.rng = np.random.default_rng([seed, number])
        torch.manual_seed(int(self.rng.integers(2**31)))
        self.name = self.pick(NAMES)
        self.config = list_pretrained()[self.name].config
        self.clips, self.frames = int(self.rng.integers(1, 4)), int(self.pick([5, 6, 7, 9]))
        self.stride = int(self.pick([1, 1, 2, 5, 7]))
        self.windows = (self.frames - 5) // self.stride + 1
        self.faults, self.bad_values, self.options = [], False, {}
        self.unchecked = self.rng.random() < 0.4
        self.method = self.pick(["forward", "forward", "forward", "score", "encode_audio"])
        self.video, self.audio = self.draw_video(), self.draw_audio()
        self.keywords = self.draw_keywords()
        if self.rng.random() < 0.5:
            for _ in range(int(self.pick([1, 1, 2]))):
                self.add_fault()

    def pick(self, values):
        return values[int(self.rng.integers(len(values)))]

    def chance(self, probability):
        return self.rng.random() < probability

    def restride(self, value):
        """The same shape and dtype in another layout of memory."""
        layout = self.pick(["plain", "plain", "transposed", "sliced", "reversed", "expanded"])
        if layout == "transposed":
            return value.transpose(0, -1).contiguous().transpose(0, -1)
        if layout == "sliced":
            return torch.stack([value, value], -1).flatten(-2)[..., ::2]
        if layout == "reversed":
            axes = list(reversed(range(value.ndim)))
            return value.permute(axes).contiguous().permute(axes)
        return value[:1].expand_as(value) if layout == "expanded" else value

    def draw_video(self):
        batch = (self.clips, self.frames)
        height = int(self.rng.integers(16, 49))
        width = int(self.rng.integers(16, 1.8 * height))  # noise of a wider shape is taken for half a face
        visual = self.config.visual
        if visual == "rgb":
            video = torch.rand(*batch, 3, height, width)
            if self.chance(0.2):
                self.options["value_range"] = (-1.0, 1.0)
                video = 2 * video - 1
            if self.chance(0.2):
                self.options["channel_order"] = "bgr"
        elif visual == "landmarks":
            video = 200 * torch.rand(*batch, 68, 2)
        elif visual == "3dmm":
            video = torch.randn(*batch, self.config.visual_features)
        elif self.chance(0.3):
            kind = self.pick([torch.uint8, torch.int32, torch.int64])
            return self.restride(torch.randint(0, 6, (*batch, height, width)).to(kind))
        else:
            video = torch.randn(*batch, 6, height, width).softmax(2)
        video = self.restride(video.to(self.pick(FLOATS)))
        return video.requires_grad_() if self.chance(0.7) else video

    def draw_audio(self):
        kind = self.config.audio
        if self.chance(0.5 if kind == "mel" else 0.15):
            extra = int(self.rng.integers(0, 641))
            audio = torch.randn(self.clips, 640 * self.frames + extra).div(10).clamp(-1, 1)
        elif kind == "mel":
            audio = 8 * torch.rand(self.clips, 80, -(-self.frames * 16 // 5)) - 4
            audio = audio[:, None] if self.chance(0.3) else audio
        else:
            audio = torch.randn(self.clips, 2 * self.frames, self.config.audio_features)
        return self.restride(audio.to(self.pick(FLOATS)))

    def draw_keywords(self):
        if self.method == "encode_audio":
            return {"stride": self.stride, "frames": self.frames}
        keywords = {}
        if self.chance(0.3):
            shape = self.pick([(self.clips, self.frames), (self.clips, self.windows)])
            keywords["mask"] = self.restride((torch.rand(shape) < 0.8).to(self.pick([torch.bool, torch.float32])))
        if self.config.visual == "rgb" and self.chance(0.2):
            corner = torch.randint(-4, 8, (self.clips, self.frames, 2))
            boxes = torch.cat([corner, corner + torch.randint(8, 30, corner.shape)], -1)
            boxes = boxes[:, 0] if self.chance(0.5) else boxes
            keywords["boxes"] = boxes.float() if self.chance(0.7) else boxes
        if self.method == "score":
            self.stride, self.windows = 1, self.frames - 4
            if "mask" in keywords and keywords["mask"].shape[1] != self.frames:
                del keywords["mask"]
            return keywords | {"per_window": self.chance(0.5)}
        keywords["stride"] = self.stride
        if self.chance(0.3):
            shape = self.pick([(self.clips,), (self.clips, 1), (self.clips, self.windows)])
            keywords["weights"] = self.restride(torch.rand(shape).to(self.pick(FLOATS)))
        if self.chance(0.2):
            keywords["windows"] = int(self.pick([1, 2, 50]))
        if self.chance(0.2):
            keywords["grad_frames"] = self.pick([1, 3, 50, range(1, 4), np.int64(2)])
        if self.chance(0.2):
            keywords["video_real"] = self.restride(self.video.detach().clone())
        return keywords | {"reduction": self.pick(["mean", "sum", "none"]), "return_terms": self.chance(0.5)}

    def add_fault(self):
        faults = ["value", "value", "shape", "shape", "dtype", "nonsense", "number", "scale"]
        fault = self.pick(faults if self.method == "encode_audio" else [*faults, "embedding"])
        self.faults.append(fault)
        tensors = {"video": self.video, "audio": self.audio} | self.keywords
        dense = {name: value for name, value in tensors.items() if getattr(value, "layout", None) == torch.strided}
        names = list(dense)
        if fault == "number":
            name = self.pick([name for name in KEYWORDS[self.method] if name in NUMBERS])
            self.keywords[name] = self.pick([*NO_NUMBERS, *NONSENSE])
        elif fault == "embedding":
            batch, wide = self.clips, self.config.embedding
            shape = self.pick([(batch, self.frames - 4, wide), (batch, 2, wide), (batch, wide), (2, 3, 4)])
            self.audio = None
            self.keywords["audio_embedding"] = torch.randn(shape).to(self.pick([*FLOATS, torch.int64]))
        elif fault == "nonsense":
            self.put(self.pick([*names, *KEYWORDS[self.method]]), self.pick(NONSENSE))
        elif names:
            name = self.pick(names)
            change = {"value": self.with_bad_value, "shape": self.of_other_shape, "dtype": self.of_other_dtype}
            self.put(name, change.get(fault, self.of_other_scale)(dense[name].detach()))

    def put(self, name, value):
        if name in ("video", "audio"):
            setattr(self, name, value)
        else:
            self.keywords[name] = value

    def with_bad_value(self, value):
        if not value.is_floating_point() or value.numel() == 0:
            return value
        self.bad_values = True
        value = value.clone(memory_format=torch.contiguous_format)
        value.view(-1)[int(self.rng.integers(value.numel()))] = self.pick([torch.nan, torch.inf, -torch.inf, -1.0])
        return value

    def of_other_shape(self, value):
        way = self.pick(["drop", "add", "swap", "empty", "short", "one", "twice"])
        axis = int(self.rng.integers(value.ndim)) if value.ndim else 0
        if value.ndim == 0 or way == "add":
            return value.unsqueeze(axis)
        if way == "drop":
            return value.select(axis, 0) if value.shape[axis] else value
        if way == "swap":
            return value.transpose(axis, int(self.rng.integers(value.ndim)))
        if way == "twice":
            return torch.cat([value, value], axis)
        length = {"empty": 0, "one": 1, "short": value.shape[axis] // 2}[way]
        return value.narrow(axis, 0, min(value.shape[axis], length))

    def of_other_dtype(self, value):
        kind = self.pick([torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float16, "meta", "sparse"])
        if kind == "meta":
            return value.to("meta")
        return value.to_sparse() if kind == "sparse" else value.to(kind)

    def of_other_scale(self, value):
        return value * self.pick([255, -1, 1e6, 32768, 1e-6, 0])

    def __call__(self):
        """Make the call; returns how it ended: "finite", "nan" or "refused".

        Raises:
            Wrong: for any other end.
        """
        loss = loss_of(self.name, tuple(sorted(self.options.items())))
        loss._calls.passed = loss._audio_calls.passed = 3 if self.unchecked else 0
        try:
            with self.pick([contextlib.nullcontext, contextlib.nullcontext, torch.no_grad, bfloat16])():
                if self.method == "encode_audio":
                    result = loss.encode_audio(self.audio, **self.keywords)
                else:
                    result = getattr(loss, self.method)(self.video, self.audio, **self.keywords)
        except (ValueError, TypeError) as error:
            if not raised_by_us(error):
                raise Wrong(f"{type(error).__name__} from inside: {error}") from error
            if not self.faults:
                raise Wrong(f"a right call was refused: {error}") from error
            return "refused"
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
        return self.check(result)

    def check(self, result):
        """Compare shape, dtype and values of a result, and the gradient, with what was asked for."""
        values = list(result) if isinstance(result, tuple) else [result]
        if not self.faults:
            shapes = self.expected_shapes()
            if [tuple(value.shape) for value in values] != shapes:
                raise Wrong(f"expected {shapes}, got {[tuple(value.shape) for value in values]}")
        if not all(value.is_floating_point() for value in values):
            raise Wrong(f"expected floating point, got {[value.dtype for value in values]}")
        finite = all(bool(value.isfinite().all()) for value in values)
        if not finite and not self.bad_values and "embedding" not in self.faults and "scale" not in self.faults:
            raise Wrong("NaN or infinity without any in the input")
        if values[0].requires_grad and self.method == "forward":
            (gradient,) = torch.autograd.grad(values[0].sum(), self.video)
            if finite and not gradient.isfinite().all():
                raise Wrong("a finite loss with a gradient that is not")
        return "finite" if finite else "nan"

    def expected_shapes(self):
        if self.method == "encode_audio":
            return [(self.clips, self.windows, self.config.embedding)]
        if self.method == "score":
            return [(self.clips, self.windows) if self.keywords["per_window"] else (self.clips,)]
        loss = (self.clips,) if self.keywords["reduction"] == "none" else ()
        if not self.keywords["return_terms"]:
            return [loss]
        windows = min(self.windows, self.keywords.get("windows", self.windows))
        return [loss, (self.clips, windows), (self.clips, windows)]

    def __str__(self):
        shown = {"video": self.video, "audio": self.audio} | self.keywords
        described = ", ".join(f"{name}={describe(value)}" for name, value in shown.items())
        return f"{self.name}.{self.method}({described}) {self.options} unchecked={self.unchecked} faults={self.faults}"


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def describe(value):
    if isinstance(value, torch.Tensor) and value.ndim:
        return f"{tuple(value.shape)}:{str(value.dtype).removeprefix('torch.')}:{value.layout}"
    return repr(value)[:40]


def raised_by_us(error):
    """Whether the innermost frame of an error is a ``raise`` of this package."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return last.filename.startswith(PACKAGE) and line.startswith("raise ")


def run(count, seed, start=0):
    """Make calls; returns how many ended in which way, and (number, call, reason) of those that ended wrong."""
    ends, wrong = Counter(), []
    for number in range(start, start + count):
        call = Call(seed, number)
        try:
            ends[call()] += 1
        except Wrong as error:
            ends["wrong"] += 1
            wrong.append((number, str(call), str(error)))
    return ends, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first call")
    options = parser.parse_args()
    ends, wrong = run(options.count, options.seed, options.start)
    for number, call, reason in wrong:
        print(f"{number}: {reason}\n    {call}")
    print(dict(ends))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
