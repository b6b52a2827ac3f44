"""Reading processes in which FFmpeg crashes or hangs at the files whose names say so."""

import os
import signal
import time

import av

from unisync_loss.utils import process_pool

_serve = process_pool._serve


def serve(connection, memory):
    """Takes the place of the reading process's own function."""
    opens = av.open

    def deadly_open(file, *given, **named):
        if "crash" in str(file):
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in str(file):
            time.sleep(600)
        return opens(file, *given, **named)

    av.open = deadly_open
    _serve(connection, memory)


def use(monkeypatch, patience):
    """Read files in such processes until the end of the test."""
    monkeypatch.setattr(process_pool, "_idle", [])
    monkeypatch.setattr(process_pool, "_serve", serve)
    monkeypatch.setattr(process_pool, "PATIENCE", patience)
