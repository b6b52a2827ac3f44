"""Runs cases in processes of their own, so that a crash or a hang costs one case and has a number."""

import json
import os
import select
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from zlib import crc32

import numpy as np
from faults.cases import KINDS, Fault

SECONDS = 120  # for one case, most of which take milliseconds, unless its kind says otherwise


def generator(kind, seed, number):
    return np.random.default_rng([seed, crc32(kind.encode()), number])


def one(kind, state, seed, number, folder):
    """End of one case: a word, or "fault: …"."""
    home = Path(folder, str(number))
    home.mkdir()
    try:
        return state.run(generator(kind, seed, number), home)
    except Fault as error:
        return f"fault: {error}"
    finally:
        shutil.rmtree(home, ignore_errors=True)


def work(kind, state, seed, numbers, folder, pipe):
    """The process of a block of cases: a line when a case begins, and one when it has ended."""
    with open(os.devnull, "w") as sink, os.fdopen(pipe, "w") as answers:
        os.dup2(sink.fileno(), 2)  # decoders write there
        warnings.simplefilter("ignore")
        for number in numbers:
            print(json.dumps([number, ""]), file=answers, flush=True)
            try:
                end = one(kind, state, seed, number, folder)
            except BaseException as error:
                end = f"fault: the test itself: {type(error).__name__}: {error}"
            print(json.dumps([number, end]), file=answers, flush=True)


def watched(kind, state, seed, numbers, folder):
    """(number, end) of cases run in one process, until it has ended, crashed or hung."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        work(kind, state, seed, numbers, folder, writing)
        os._exit(0)
    os.close(writing)
    begun, buffer, seconds = None, b"", getattr(state, "seconds", SECONDS)
    while True:
        if not select.select([reading], [], [], seconds)[0]:
            os.kill(process, signal.SIGKILL)
            yield begun, f"hang: no end within {seconds} s"
            break
        if not (data := os.read(reading, 2**16)):
            break
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for number, end in map(json.loads, lines):
            begun = None if end else number
            if end:
                yield number, end
    os.close(reading)
    _, status = os.waitpid(process, 0)
    if begun is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        yield begun, f"crash: {signal.Signals(os.WTERMSIG(status)).name}"


def run(kind, seed, count, start=0):
    """Run cases; returns how many ended in which way, and (number, reason) of those that ended wrong."""
    ends, wrong, state = Counter(), [], KINDS[kind]()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made")
        made.mkdir()
        state.make(made)
        numbers = list(range(start, start + count))
        while numbers:
            for number, end in watched(kind, state, seed, numbers, folder):
                word, _, reason = end.partition(": ")
                ends[word] += 1
                if reason:
                    wrong.append((number, end))
                numbers = [other for other in numbers if other > number]
    return ends, wrong
