"""Wav2Lip's own training script on a CPU with the lines of docs/clients.md: sync loss, gradients, and the weight.

    python -m unisync_loss.adapters.check wav2lip CHECKOUT --apply
    python benchmarks/wav2lip_run.py CHECKOUT --data FACES --out OUT --steps 20
    python benchmarks/wav2lip_run.py CHECKOUT --data FACES --out OUT --checkpoint_path OUT/checkpoint_step000000001.pth

FACES is a folder as Wav2Lip's ``preprocess.py`` writes it, with its lists in ``CHECKOUT/filelists``. The script is not
changed; hooks of PyTorch measure at every step. ``wav2lip_train.py`` evaluates 700 batches after its first step: the
first call ends there, the second goes on from its checkpoint. Other options are passed to the script. ``equal weight``
is |∇ L1| / |∇ sync| with respect to the generated frames, and the same at the real frames. Needs librosa.
"""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa.filters
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Run:
    """Measurements at the steps of a script whose generator is ``Wav2Lip`` or ``Wav2Lip_SAM``."""

    def __init__(self, steps: int, *, without_sync: bool) -> None:
        self.steps, self.without_sync = steps, without_sync
        self.count = 0
        self.generator: nn.Module | None = None
        self.sync: nn.Module | None = None
        self.before: list[Tensor] = []
        self.mel = torch.empty(0)
        self.now: dict[str, float] = {}
        self.equal: list[float] = []

    def start(self, module: nn.Module, _inputs: Any) -> None:  # noqa: ANN401 - as PyTorch passes them
        """Ends the run after the last step, and before Wav2Lip's evaluation of 700 batches after the first."""
        if type(module).__name__.startswith("Wav2Lip") and type(module).__name__ != "Wav2LipSync":
            finished = module is self.generator and self.count >= self.steps
            if finished or (module is self.generator and not module.training):
                raise KeyboardInterrupt

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Tensor | None:  # noqa: ANN401
        """Gradients with respect to the generated frames."""
        name = type(module).__name__
        if name in ("Wav2Lip", "Wav2Lip_SAM"):
            self.generator = module
        if name == "L1Loss" and output.requires_grad:
            self.now |= {"l1": output.item(), "|∇ L1|": gradient(output, inputs[0])}
            self.now["equal weight"] = self.now["|∇ L1|"] / self.now["|∇ sync|"]
            self.now["… at the real frames"] = self.now["|∇ L1|"] / self.at_real_frames(inputs[1])
        if name == "Wav2LipSync" and output.requires_grad:
            self.mel = inputs[0]
            if self.sync is None:
                self.sync, self.before = module, [value.clone() for value in tensors(module)]
            self.now = {"sync": output.item(), "|∇ sync|": gradient(output, inputs[1])}
            assert self.generator is not None
            if self.count in (0, self.steps - 1):  # as long as a step
                self.now["|∇ sync|, weights"] = gradient(output, *self.generator.parameters())
            return output * 0 if self.without_sync else None
        return None

    def at_real_frames(self, frames: Tensor) -> float:
        """Norm of the gradient of the sync loss at the target."""
        assert self.sync is not None
        leaf = frames.detach().requires_grad_()
        return gradient(self.sync.forward(self.mel, leaf), leaf)

    def step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:  # noqa: ANN401
        """Prints a line for every step of the generator."""
        assert self.generator is not None
        if optimizer.param_groups[0]["params"][0] is next(self.generator.parameters()):
            self.count += 1
            self.equal.append(self.now["equal weight"])
            print(f"\nstep {self.count}: " + ", ".join(f"{key} {value:.4g}" for key, value in self.now.items()))

    def report(self) -> None:
        """Prints whether the expert is unchanged, and the weight."""
        assert self.sync is not None
        same = all(torch.equal(*pair) for pair in zip(self.before, tensors(self.sync), strict=True))
        late = self.equal[-20:]
        print(f"\nexpert unchanged: {same}, in eval mode: {not any(part.training for part in parts(self.sync))}")
        print(f"equal weight over the last {len(late)} steps: median {statistics.median(late):.2g}, ", end="")
        print(f"{min(late):.2g} to {max(late):.2g}")


def gradient(loss: Tensor, *variables: Tensor) -> float:
    """Norm of a gradient."""
    used = torch.autograd.grad(loss, variables, retain_graph=True, allow_unused=True)
    return float(torch.stack([value.norm() for value in used if value is not None]).norm())


def parts(sync: Any) -> list[nn.Module]:  # noqa: ANN401
    """The expert of a ``Wav2LipSync``, and all modules in it."""
    return list(sync.loss.expert.modules())


def tensors(sync: Any) -> list[Tensor]:  # noqa: ANN401
    """Weights and statistics of the expert."""
    return list(sync.loss.expert.state_dict().values())


def adapt_to_today() -> None:
    """The two things beside the documented lines that today's packages and a CPU need, see docs/clients.md."""
    build: Callable[..., Any] = librosa.filters.mel
    librosa.filters.mel = lambda sr, n_fft, **options: build(sr=sr, n_fft=n_fft, **options)
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--script", default="wav2lip_train.py")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--without-sync", action="store_true", help="measure the sync loss, but do not train with it")
    options, others = parser.parse_known_args()
    arguments = [
        options.script,
        "--data_root",
        str(options.data.resolve()),
        "--checkpoint_dir",
        str(options.out.resolve()),
    ]
    os.chdir(options.checkout)
    sys.path.insert(0, os.getcwd())
    sys.argv = [*arguments, *others]
    torch.manual_seed(0)
    adapt_to_today()
    hparams = importlib.import_module("hparams").hparams
    settings = {"batch_size": options.batch, "num_workers": 0, "initial_learning_rate": options.rate}
    settings |= {"checkpoint_interval": options.steps, "eval_interval": 10**9}
    for key, value in settings.items():
        hparams.set_hparam(key, value)
    run = Run(options.steps, without_sync=options.without_sync)
    register_module_forward_pre_hook(run.start)
    register_module_forward_hook(run.after)
    register_optimizer_step_pre_hook(run.step)
    try:
        runpy.run_path(options.script, run_name="__main__")
    except KeyboardInterrupt:
        run.report()


if __name__ == "__main__":
    main()
