"""Commands in hostile surroundings: killed at random moments, full disks, no handles, closed streams, odd names.

Every case is a command of its own, on the same drawn clips. Whatever happens to it, it leaves nothing or what an
undisturbed run writes; it ends with 0 or with a line that says why; and started once more, it completes.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

from faults.mutations import pick
from helpers.paths import ROOT

from tools.synthetic.clip import synthesize_clip
from unisync_loss.video.encoding import write_clip

PROGRAM = [sys.executable, "-m", "unisync_loss.cli"]
#: what each command writes below `out`
COMMANDS = {
    "score": "score clips --model mel-rgb --json out/score.json --csv out/score.csv --report out/report",
    "eval": "eval --data clips --model mel-rgb --json out/eval.json",
    "align": "align clips --model mel-rgb --json out/align.json",
    "features": "features clips --model mel-rgb --out out/features --json out/features.json",
    "doctor": "doctor clips --model mel-rgb --json out/doctor.json --report out/report",
    "prepare": "prepare clips --out out/store --workers 1 --json out/prepare.json",
    "train": "train --data clips --val clips --visual landmarks --out out/run --cache out/cache data.workers=1 "
    "recipe.steps=6 recipe.clips=2 run.val_every=3 run.save_minutes=0",
    "info": "info mel-rgb --json out/info.json",
}
#: names of files that hold times or other measures of the run itself, or that other runs of a command complete
NOT_COMPARED = (
    "out/features.json",
    "out/prepare.json",
    "log.jsonl",
    "log.csv",
    "curves",
    ".lock",
    "score.npz",
    "tensorboard",
    "events.",
    "environment",
)
SECONDS = 400


class Fault(Exception):
    """A case that ended in another way than it may."""


class Commands:
    """The clips, and what each command writes when nothing disturbs it."""

    seconds = 4 * SECONDS

    def make(self, folder):
        self.clips, self.whole = folder / "clips", {}
        for number in range(2):
            path = self.clips / "drawn" / f"s{number}" / "0.mp4"
            path.parent.mkdir(parents=True)
            clip = synthesize_clip(number, seconds=1.4, speaker_seed=number)
            write_clip(path, clip.frames, clip.waveform)
        self.folder = folder

    def undisturbed(self, name):
        """Files and seconds of a run of a command."""
        if name not in self.whole:
            home = self.lay_out()
            started = time.monotonic()
            done = self.wait(self.start(name, home))
            if done[0]:
                raise Fault(f"{name} fails undisturbed: {done[1][-300:]}")
            self.whole[name] = contents(home), time.monotonic() - started
        return self.whole[name]

    def lay_out(self):
        """A fresh folder of clips and results, always at the same place, because stores name their sources."""
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        shutil.copytree(self.clips, home / "clips")
        (home / "out").mkdir()
        return home

    def start(self, name, home, *, limits=(), environment=None, more=(), **streams):
        """Start a command in a session of its own, so that all of its processes can be ended."""

        def limit():
            for kind, value in limits:
                resource.setrlimit(kind, (value, value))

        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | streams
        return subprocess.Popen(
            [*PROGRAM, *COMMANDS[name].split(), *more],
            cwd=home,
            env={key: value for key, value in surroundings.items() if value is not None},
            start_new_session=True,
            preexec_fn=limit,
            stdin=subprocess.DEVNULL,
            **pipes,
        )

    def wait(self, process):
        """Status and output.

        Raises:
            Fault: for one that does not end.
        """
        try:
            output = process.communicate(timeout=SECONDS)[0] or b""
        except subprocess.TimeoutExpired:
            kill(process)
            raise Fault(f"hang: no end within {SECONDS} s") from None
        return process.returncode, output.decode(errors="replace")

    def check(self, name, home, status, output, *, partly=False):
        """Compare what is left with the undisturbed run; ``partly``: without what was not reached."""
        if "Traceback" in output:
            raise Fault(f"{name}: raw traceback: {output[-400:]}")
        if status < 0:
            raise Fault(f"{name}: ended by {signal.Signals(-status).name}: {output[-200:]}")
        if status and not output.strip() and not partly:
            raise Fault(f"{name}: ended with {status} without a line")
        self.compare(name, home, partly=bool(status) or partly)

    def compare(self, name, home, *, partly):
        expected, found = self.undisturbed(name)[0], contents(home)
        if stray := [file for file in found if file not in expected and not partly]:
            raise Fault(f"{name}: left behind {stray[:4]}")
        if missing := [file for file in expected if file not in found and not partly]:
            raise Fault(f"{name}: lost {missing[:4]}")
        if other := [file for file in found if file in expected and found[file] != expected[file] and is_final(file)]:
            if not (partly and name in ("prepare", "train", "features")):  # which continue: their files grow
                raise Fault(f"{name}: other bytes in {other[:4]}")


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def is_final(name):
    return not any(part in name for part in NOT_COMPARED)


def contents(home):
    """Bytes of all files below ``clips`` and ``out``, without those of a lock."""
    files = {path.relative_to(home).as_posix(): path for path in sorted(home.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if ".lock" not in name}


class Kills(Commands):
    """SIGKILL at a random moment; the next run completes it."""

    def run(self, rng, folder):
        name = pick(rng, ["score", "eval", "align", "features", "doctor", "prepare", "train"])
        expected, seconds = self.undisturbed(name)
        home = self.lay_out()
        moment = float(rng.uniform(0.3, 1.0)) * seconds
        process = self.start(name, home)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        kill(process)
        self.compare(name, home, partly=True)
        process = self.start(name, home, more=["--resume"] if (home / "out/run/config.yaml").exists() else [])
        status, output = self.wait(process)
        if status:
            raise Fault(f"{name}, killed after {moment:.1f} s of {seconds:.1f}: the next run: {output[-300:]}")
        found = contents(home)
        if other := [file for file in expected if is_final(file) and found.get(file) != expected[file]]:
            raise Fault(f"{name}, killed after {moment:.1f} s of {seconds:.1f}: other bytes in {other[:4]}")
        if stray := [file for file in found if file not in expected and is_final(file)]:
            raise Fault(f"{name}, killed after {moment:.1f} s of {seconds:.1f}: left behind {stray[:4]}")
        return "equal"


class Surroundings(Commands):
    """Everything else that can be wrong around a command."""

    def run(self, rng, folder):
        ways = [way for way in dir(self) if way.startswith("with_")]
        way = pick(rng, ways)
        name = pick(rng, ["score", "eval", "align", "features", "doctor", "prepare", "info"])
        self.undisturbed(name)
        home = self.lay_out()
        try:
            getattr(self, way)(rng, name, home)
        except Fault as error:
            raise Fault(f"{way.removeprefix('with_')}: {error}") from error
        return way.removeprefix("with_")

    def with_full_disk(self, rng, name, home):
        limit = int(pick(rng, [0, 100, 1000, 20_000]))
        process = self.start(name, home, limits=[(resource.RLIMIT_FSIZE, limit)])
        self.check(name, home, *self.wait(process))

    def with_full_device(self, rng, name, home):
        more = ["--json", "/dev/full"]
        process = self.start(name, home, more=more)
        status, output = self.wait(process)
        if not status:
            raise Fault(f"{name}: wrote to a full device")
        self.check(name, home, status, output)

    def with_read_only_folder(self, rng, name, home):
        status, output = self.wait(self.start(name, home, more=["--json", "/proc/out.json"]))
        if not status:
            raise Fault(f"{name}: wrote below /proc")
        self.check(name, home, status, output)

    def with_deleted_output(self, rng, name, home):
        process = self.start(name, home)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(float(rng.uniform(0.2, 1)) * self.undisturbed(name)[1])
        shutil.rmtree(home / "out", ignore_errors=True)
        self.check(name, home, *self.wait(process), partly=True)

    def with_two_writers(self, rng, name, home):
        both = [self.start(name, home) for _ in range(2)]
        ends = [self.wait(process) for process in both]
        for status, output in ends:
            self.check(name, home, status, output, partly=True)
        if all(status for status, _ in ends):
            raise Fault(f"{name}: neither of two completed: {ends[0][1][-200:]}")
        self.compare(name, home, partly=False)

    def with_few_handles(self, rng, name, home):
        process = self.start(name, home, limits=[(resource.RLIMIT_NOFILE, int(rng.integers(8, 60)))])
        self.check(name, home, *self.wait(process))

    def with_little_memory(self, rng, name, home):
        size = int(rng.integers(500, 4000)) * 2**20
        process = self.start(name, home, limits=[(resource.RLIMIT_AS, size)])
        self.wait(process)  # native code may end the process; what it leaves counts
        self.compare(name, home, partly=True)

    def with_no_home(self, rng, name, home):
        gone = pick(rng, [None, "/nonexistent", "/dev/null", ""])
        process = self.start(name, home, environment={"HOME": gone, "XDG_CACHE_HOME": None})
        self.check(name, home, *self.wait(process))

    def with_closed_streams(self, rng, name, home):
        reading, writing = os.pipe()
        os.close(reading)
        with open("/dev/full", "w") as full, os.fdopen(writing, "w") as broken:
            streams = pick(rng, [{"stdout": broken}, {"stdout": full}, {"stderr": full}, {"stderr": broken}])
            process = self.start(name, home, **({"stderr": subprocess.PIPE} | streams))
            errors = process.communicate(timeout=SECONDS)
        output = b"".join(part or b"" for part in errors).decode(errors="replace")
        self.check(name, home, process.returncode, output, partly=True)

    def with_sigterm(self, rng, name, home):
        seconds = self.undisturbed(name)[1]
        process = self.start(name, home)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(float(rng.uniform(0.3, 1)) * seconds)
        process.terminate()
        status, output = self.wait(process)
        if status == -signal.SIGTERM:  # before the program had begun
            self.compare(name, home, partly=True)
            return
        self.check(name, home, status, output, partly=True)
        if status not in (0, 143):
            raise Fault(f"{name}: expected 143 after SIGTERM, got {status}: {output[-200:]}")

    def with_odd_names(self, rng, name, home):
        odd = pick(rng, ["\U0001f600", "日本", os.fsdecode(b"\xff\xfe"), "a\nb", "-x", " ", "é"])
        (home / "clips" / "drawn" / "s0").rename(home / "clips" / "drawn" / f"s{odd}")
        encoding = pick(rng, ["cp437", "latin-1", "gbk", "ascii", "utf-8", "utf-16"])
        environment = {"PYTHONIOENCODING": encoding, "LC_ALL": pick(rng, ["C", "C.UTF-8", "POSIX"]), "PYTHONUTF8": "0"}
        status, output = self.wait(self.start(name, home, environment=environment))
        if "Traceback" in output or status:
            raise Fault(f"{name}: {odd!r} on a console in {encoding}: {status}: {output[-300:]}")
