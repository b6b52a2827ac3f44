import io

import numpy as np
from helpers.scoring import track

from unisync_loss.evaluation.video_page import pack_matrices
from unisync_loss.evaluation.video_scores import TrackScores, VideoScores
from unisync_loss.evaluation.video_summary import summarise_video


def test_sync_matrices_are_there_as_numbers():
    deaf = TrackScores(0, np.full((40, 31), np.nan, np.float32), np.zeros(40, np.float32), [])
    scores = VideoScores([deaf, track(np.full(60, 0.8), start=50, offset=3)], [], 9.0, [])
    packed = np.load(io.BytesIO(pack_matrices(scores)))
    assert set(packed) == {"offsets", "start_0", "face_0"}  # numbered as the tracks of the verdict
    assert (packed["face_0"] == scores.tracks[1].table).all()
    assert packed["start_0"] == 2.0 == summarise_video("a", scores, 0.5)["tracks"][0]["start"]
    assert packed["offsets"][packed["face_0"].mean(0).argmax()] == 3
