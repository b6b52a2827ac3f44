import csv
import io
import json
import re
import threading

import numpy as np
import pytest
import torch
from einops import rearrange
from helpers.media import mux
from typer.testing import CliRunner

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.cli import app
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.evaluation import score as score_run
from unisync_loss.evaluation.compare import compare, comparison_lines, find_twins
from unisync_loss.evaluation.film import with_curve, write_film
from unisync_loss.evaluation.video_page import pack_matrices
from unisync_loss.evaluation.video_scores import TrackScores, VideoScores, score_video
from unisync_loss.evaluation.video_summary import judge, to_csv, to_lines, who_speaks
from unisync_loss.functional import offset_matrix
from unisync_loss.models.pretrained import load_expert
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip
from unisync_loss.video.face_tracking import TrackPiece, track_faces

av = pytest.importorskip("av")


def whole(frame, number=0):
    """A face that fills the frame."""
    height, width = frame.shape[:2]
    return np.array([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]], np.float32)


@pytest.fixture(scope="module")
def released():
    return load_expert("mel-rgb")


@pytest.fixture(scope="module")
def face():
    return read_clip(DEFAULT_CLIP, max_frames=110)


def film(tmp_path, face, shift=0, name="a.mp4"):
    """The drawn face with its sound that many frames late."""
    begin = max(0, -shift) * 640
    sound = np.pad(face.waveform, (max(0, shift) * 640, 0))[begin : begin + len(face.frames) * 640]
    write_clip(tmp_path / name, face.frames, sound, crf=10)
    return tmp_path / name


class TestScore:
    def test_streaming_equals_all_at_once(self, tmp_path, expert, face):
        path = film(tmp_path, face)
        scores = score_video(path, expert, finder=whole)
        clip = read_clip(path)
        crops = np.concatenate([p.crops for p in track_faces(iter(clip.frames), whole) if isinstance(p, TrackPiece)])
        with torch.inference_mode():
            seen = expert.encode_visual(rearrange(torch.from_numpy(crops), "t h w c -> 1 t c h w").float() / 255)
            heard = expert.encode_audio(torch.from_numpy(clip.waveform)[None], len(crops))
        expected = offset_matrix(heard, seen, 15)[0].numpy()
        (track,) = scores.tracks
        assert track.table.shape == (len(clip.frames) - 4, 31)
        known = ~np.isnan(expected)
        # the file may hold sound after the last frame, which only the stream hears
        assert np.abs(track.table - expected)[known].max() < 1e-4
        assert np.isnan(track.table[0, :15]).all()
        assert scores.seconds == pytest.approx(len(face.frames) / 25)

    @pytest.mark.parametrize("shift", [-6, 5])
    def test_late_audio_moves_the_offset(self, tmp_path, released, face, shift):
        found = [
            judge("x", score_video(film(tmp_path, face, late), released, finder=whole), 0.5)["tracks"][0]
            for late in (0, shift)
        ]
        assert found[1]["offset_frames"] - found[0]["offset_frames"] == shift
        assert found[1]["offset_ms"] == 40 * found[1]["offset_frames"]
        assert found[0]["probability_mean"] > found[1]["probability_mean"] + 0.1
        assert found[1]["probability_mean_at_offset"] == pytest.approx(found[0]["probability_mean_at_offset"], abs=0.05)

    def test_two_scenes(self, tmp_path, expert, face):
        inverted = 255 - face.frames[:40]
        write_clip(tmp_path / "a.mp4", np.concatenate([face.frames[:50], inverted]), face.waveform[: 90 * 640])
        tracks = score_video(tmp_path / "a.mp4", expert, finder=whole).tracks
        assert [(track.start, len(track.table)) for track in tracks] == [(0, 46), (50, 36)]
        assert not np.isnan(tracks[1].table[0, :15]).any()  # the sound before the cut is there to compare with

    @pytest.mark.parametrize(
        ("frames", "level", "finder", "message"),
        [
            (60, 1.0, lambda frame, number: [], "expected a face on show for 1.2 s, found none"),
            (60, 0.0, whole, "expected a voice, the sound is silent"),
            (25, 1.0, whole, "expected at least 1.2 s of video, got 1 s"),
            (60, 1.0, lambda frame, number: whole(frame) * 0.1, r"found none \(a face of .* pixels"),
        ],
    )
    def test_what_cannot_be_scored_says_why(self, tmp_path, expert, face, frames, level, finder, message):
        write_clip(tmp_path / "a.mp4", face.frames[:frames], level * face.waveform[: frames * 640])
        with pytest.raises(ValueError, match=message):
            score_video(tmp_path / "a.mp4", expert, finder=finder)

    def test_a_truncated_file_is_scored_as_far_as_it_goes_and_says_so(self, tmp_path, expert, face):
        mux(tmp_path / "whole.mkv", face.frames, face.waveform)
        content = (tmp_path / "whole.mkv").read_bytes()
        (tmp_path / "a.mkv").write_bytes(content[: round(0.7 * len(content))])
        scores = score_video(tmp_path / "a.mkv", expert, finder=whole)
        assert 2 < scores.seconds < 3.9
        assert len(scores.tracks[0].table) == round(25 * scores.seconds) - 4
        assert scores.notes == [f"only {scores.seconds:.1f} of 4.4 s could be decoded"]

    def test_of_three_people_the_one_who_speaks_is_named(self, tmp_path, released, face):
        frames = face.frames[:70]
        people = [np.repeat(frames[:1], 70, axis=0), frames, np.roll(frames[::-1], 20, axis=0)]
        write_clip(tmp_path / "a.mp4", np.concatenate(people, axis=2), face.waveform[: 70 * 640], crf=10)

        def three(frame, number):
            return np.concatenate([np.add(whole(frame[:, :192]), [left, 0, left, 0]) for left in (0, 192, 384)])

        judged = judge("a", score_video(tmp_path / "a.mp4", released, finder=three), released.config.threshold)
        assert [track["track"] for track in judged["tracks"]] == [0, 1, 2]
        assert judged["speaker_track"] == 1
        assert judged["tracks"][1]["speaking_share"] > 0.6
        assert judged["tracks"][1]["confidence"] > max(judged["tracks"][i]["confidence"] for i in (0, 2))

    def test_errors_of_a_stage_arrive_and_no_thread_is_left(self, tmp_path, expert, face):
        def broken(frame, number):
            raise ValueError("the finder broke")

        path = film(tmp_path, face)
        before = threading.active_count()
        with pytest.raises(ValueError, match="the finder broke"):
            score_video(path, expert, finder=broken)
        assert threading.active_count() == before

    def test_what_cannot_be_made_from_video_is_refused_before_any_work(self, tmp_path):
        expert = UniSyncExpert(UniSyncConfig(visual="3dmm", embedding=8))
        with pytest.raises(ValueError, match="expected the 40 coefficients that are made from video"):
            score_video(tmp_path / "gone.mp4", expert)


def track(probability, start=0, level=0.2, offset=0):
    table = np.full((len(probability), 31), 0.2, np.float32)
    table[:, 15 + offset] = probability
    return TrackScores(start, table, np.broadcast_to(np.float32(level), len(probability)), [])


class TestVerdict:
    def test_the_face_that_fits_speaks(self):
        first = np.r_[np.full(100, 0.9), np.full(100, 0.3)]
        windows, voiced = who_speaks([track(first), track(1.2 - first), track(np.full(50, 0.4))], 0, 0.5)
        assert voiced == [200, 200, 50]
        assert windows[0] == pytest.approx(100, abs=2)
        assert windows[1] == pytest.approx(100, abs=2)
        assert windows[2] == 0

    def test_judge(self):
        level = np.r_[np.full(60, 0.3), np.zeros(40)].astype(np.float32)
        scores = track(np.r_[np.full(60, 0.8), np.full(40, 0.4)], start=50, level=level)
        judged = judge("a.mp4", VideoScores([scores], ["why"], 9.0, []), 0.5)
        (numbers,) = judged["tracks"]
        assert judged["speaker_track"] == 0
        assert numbers["start"] == 2.0
        assert numbers["share_in_sync"] == 0.6
        assert numbers["voiced"] == {"probability_mean": 0.8, "share_in_sync": 1.0}
        assert numbers["unvoiced"] == {"probability_mean": 0.4, "share_in_sync": 0.0}
        assert numbers["speaking_share"] == 1
        assert len(numbers["probability"]) == 100
        json.dumps(judged, allow_nan=False)
        text = to_lines([judged, {"video": "b.mp4", "error": "no face"}])
        _, head, line, left_out, error = text.splitlines()
        ends = [[cell.end() for cell in re.finditer(r"\S+( \S+)*", row)] for row in (head, line)]
        assert ends[0] == ends[1][:10]  # every figure stands below its name
        assert line.split()[:9] == ["+0", "+0", "+0…+0", "0.44", "0.64", "0.60", "1.00", "0.00", "1.00"]
        assert line.endswith("a.mp4, face 0, 2.0 to 6.2 s")
        assert (left_out, error) == ("a.mp4: left out: why", "b.mp4: not scored: no face")
        rows = list(csv.DictReader(to_csv([judged, {"video": "b,\n.mp4", "error": "no face"}]).splitlines(True)))
        assert [row["error"] for row in rows] == ["", "no face"]
        assert rows[0]["share_in_sync"] == "0.6"
        assert [rows[0][f"{part}_share_in_sync"] for part in ("voiced", "unvoiced")] == ["1.0", "0.0"]
        assert [rows[0][f"{part}_probability_mean"] for part in ("voiced", "unvoiced")] == ["0.8", "0.4"]
        assert (rows[0]["probability_mean_at_offset"], rows[0]["speaker_track"], rows[0]["drift_low"]) == (
            "0.64",
            "0",
            "",
        )

    def test_the_table_names_who_speaks(self):
        first = track(np.r_[np.full(600, 0.9)], level=np.full(600, 0.2, np.float32))
        text = to_lines([judge("a.mp4", VideoScores([track(np.full(600, 0.3)), first], [], 24.0, ["cut"]), 0.5)])
        _, _, zero, one, note = text.splitlines()
        assert "who speaks" not in zero
        assert one.endswith("a.mp4, face 1, 0.0 to 24.2 s (who speaks)")
        assert one.split()[9] == "+0"  # drift
        assert note == "a.mp4: cut"

    def test_sync_matrices_are_there_as_numbers(self):
        deaf = TrackScores(0, np.full((40, 31), np.nan, np.float32), np.zeros(40, np.float32), [])
        scores = VideoScores([deaf, track(np.full(60, 0.8), start=50, offset=3)], [], 9.0, [])
        packed = np.load(io.BytesIO(pack_matrices(scores)))
        assert set(packed) == {"offsets", "start_0", "face_0"}  # numbered as the tracks of the verdict
        assert (packed["face_0"] == scores.tracks[1].table).all()
        assert packed["start_0"] == 2.0 == judge("a", scores, 0.5)["tracks"][0]["start"]
        assert packed["offsets"][packed["face_0"].mean(0).argmax()] == 3

    def test_no_sound_beside_the_face(self):
        silent = TrackScores(0, np.full((40, 31), np.nan, np.float32), np.zeros(40, np.float32), [])
        with pytest.raises(ValueError, match=r"a.mp4: expected sound while a face is on show, got none"):
            judge("a.mp4", VideoScores([silent], [], 2.0, []), 0.5)


class TestFilm:
    def test_curve_below_the_picture_and_the_sound_beside_it(self, tmp_path, face):
        pytest.importorskip("matplotlib")
        path = film(tmp_path, face)
        high, low = (track(np.full(106, value)) for value in (0.9, 0.1))
        rows, told = [], []
        for number, scores in enumerate((high, low)):
            out = tmp_path / f"film{number}.mp4"
            write_film(path, VideoScores([scores], [], 4.4, []), 0.5, out, lambda *done: told.append(done))
            made = read_clip(out)
            assert made.frames.shape == (110, 192 + 120, 192, 3)
            assert np.abs(made.frames[:, :192].astype(int) - read_clip(path).frames).mean() < 3
            assert np.corrcoef(made.waveform, face.waveform[: made.waveform.size])[0, 1] > 0.9
            red = (made.frames[..., 0].astype(int) - made.frames[..., 2])[:, 200:].sum(1).argmax(1)  # the cursor
            assert red == pytest.approx(34 + (192 - 34 - 12) * np.arange(110) / 250, abs=2.5)
            strip = made.frames[100, 192:, 40:80].astype(int)
            rows.append(np.median(np.argwhere(strip[..., 2] - strip[..., 0] > 60)[:, 0]))
        assert rows[0] < rows[1] - 30  # a probability of 0.9 lies higher
        assert told == 2 * [(tick / 25, 4.4) for tick in range(1, 111)]
        assert not list(tmp_path.glob(".*"))

    def test_pages_without_a_face_are_empty(self, tmp_path):
        pytest.importorskip("matplotlib")
        frames = (np.zeros((65, 65, 3), np.uint8) for _ in range(251))
        shown = list(with_curve(frames, VideoScores([track(np.full(20, 0.5))], [], 10.04, []), 0.5))
        assert {picture.shape for picture in shown} == {(64 + 120, 64, 3)}


class TestCompare:
    @staticmethod
    def videos(folder, values):
        return [
            judge(f"{folder}/{name}.mp4", VideoScores([track(np.full(50, value))], [], 2.0, []), 0.5)
            | {"group": folder}
            for name, value in values.items()
        ]

    def test_pairs_by_name(self):
        real = self.videos("real", {"a": 0.9, "b": 0.7, "c": 0.8})
        made = self.videos("made", {"b": 0.5, "a": 0.7, "d": 0.1})
        (row,) = compare(real, {"made": made})
        assert (row["group"], row["pairs"], row["unpaired"]) == ("made", 2, 1)
        assert row["measures"]["probability_mean"]["difference"] == pytest.approx(-0.2)
        # pairs that differ alike have no spread, however much the videos differ
        assert row["measures"]["probability_mean"]["ci95"] == pytest.approx([-0.2, -0.2])

    def test_single_files_pair_whatever_their_names(self):
        (row,) = compare(self.videos("x", {"a": 0.9}), {"y": self.videos("y", {"b": 0.5})})
        assert row["pairs"] == 1
        assert row["measures"]["probability_mean"]["ci95"] is None

    def test_names_that_come_twice_pair_by_their_paths(self):
        """As in LRS3, where every speaker has an 00001.mp4: by name alone strangers would be compared."""
        real = self.videos("real", {"one/0001": 0.9, "two/0001": 0.5})
        made = self.videos("made", {"two/0001": 0.4, "one/0001": 0.8})
        (row,) = compare(real, {"made": made})
        assert row["pairs"] == 2
        assert row["measures"]["probability_mean"]["ci95"] == pytest.approx([-0.1, -0.1])
        twice = [{"video": f"made/a{suffix}", "group": "made"} for suffix in (".mp4", ".avi")]
        with pytest.raises(ValueError, match="differ by more than the suffix, got a more than once"):
            find_twins(self.videos("x", {"a": 0.9, "b": 0.9}), twice)
        beside = [{"video": "a.mp4", "group": "a.mp4"}]
        with pytest.raises(ValueError, match=r"made: expected videos named as the real ones \(a\), got m/a, n/a"):
            find_twins(beside, self.videos("made", {"m/a": 0.9, "n/a": 0.9}))

    def test_nothing_to_pair(self):
        with pytest.raises(ValueError, match=r"y: expected videos named as the real ones \(a, b\), got c"):
            compare(self.videos("x", {"a": 0.9, "b": 0.9}), {"made": self.videos("y", {"c": 0.5})})

    def test_what_has_no_score_is_no_zero(self):
        """Neither a video that was not scored nor one whose sound ends before its face begins."""
        deaf = track(np.full(50, np.nan))
        real = self.videos("real", {"a": 0.9, "b": 0.7, "c": 0.8})
        made = [
            *self.videos("made", {"a": 0.8}),
            {"video": "made/b.mp4", "group": "made", "error": "no face"},
            judge("made/c.mp4", VideoScores([deaf], [], 2.0, []), 0.5) | {"group": "made"},
        ]
        (row,) = compare(real, {"made": made})
        assert (row["pairs"], row["unpaired"]) == (1, 2)
        assert row["measures"]["probability_mean"]["difference"] == pytest.approx(-0.1)
        (row,) = compare(real, {"made": made[1:]})
        assert (row["pairs"], row["measures"]) == (0, {})
        assert comparison_lines([row]) == "made against real: 0 pairs, 2 without a twin"


class TestProgram:
    @pytest.fixture
    def model(self, tmp_path):
        save_pretrained(UniSyncExpert(UniSyncConfig(embedding=8)), tmp_path / "tiny")
        return tmp_path / "tiny"

    def test_files_are_written_and_a_bad_video_does_not_stop_the_rest(self, tmp_path, model, face):
        pytest.importorskip("mediapipe")
        pytest.importorskip("matplotlib")
        folder = tmp_path / "videos of $mine$"
        folder.mkdir()
        short = face._replace(frames=face.frames[:60], waveform=face.waveform[: 60 * 640])
        film(folder, short, name="a <b>.mp4")
        (folder / "broken.mp4").write_text("nothing")
        arguments = ["score", folder, "--model", model, "--json", tmp_path / "o" / "s.json"]
        arguments += ["--csv", tmp_path / "s.csv", "--report", tmp_path / "report", "--film"]
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / "o" / "s.json").read_text())
        assert report["model"] == str(model)
        good, bad = report["videos"]
        contract = {"track", "offset_frames", "offset_ms", "confidence", "probability_mean", "probability", "fps"}
        assert contract <= set(good["tracks"][0])
        assert bad["error"].startswith("cannot be decoded")
        assert len((tmp_path / "s.csv").read_text().splitlines()) == 3
        page = (tmp_path / "report" / "report.html").read_text()
        assert "a &lt;b&gt;.mp4" in page
        assert "$" not in page.replace("$mine$", "")
        (picture,) = (tmp_path / "report").glob("*.png")
        assert picture.with_suffix(".mp4").is_file()
        assert f'src="{picture.name}"' in page
        assert picture.read_bytes()[:4] == b"\x89PNG"
        assert good["sync_matrix"] == picture.with_suffix(".npz").name
        assert f'href="{good["sync_matrix"]}"' in page
        (windows, _), shown = np.load(picture.with_suffix(".npz"))["face_0"].shape, good["tracks"][0]["probability"]
        assert windows == len(shown)

    def test_wrong_input(self, tmp_path, model):
        pytest.importorskip("mediapipe")
        (tmp_path / "x.mp4").write_text("nothing")
        (tmp_path / "empty").mkdir()
        for arguments, message in (
            (["gone.mp4"], "no such video file or folder: gone.mp4"),
            ([tmp_path / "x.mp4"], "x.mp4: cannot be decoded"),
            ([tmp_path / "empty"], "expected videos ("),
            (
                [tmp_path / "x.mp4", "--compare"],
                "compare: expected real videos and at least one path of generated ones",
            ),
            ([tmp_path / "x.mp4", "--film"], "film: expected a folder for the report, got none"),
        ):
            done = CliRunner().invoke(app, ["score", *map(str, arguments), "--model", str(model)])
            assert isinstance(done.exception, (ValueError, OSError)), done.output
            assert message in str(done.exception)

    def test_names_of_twins_are_looked_at_before_anything_is_scored(self, tmp_path, expert, monkeypatch):
        pytest.importorskip("mediapipe")
        monkeypatch.setattr(score_run, "score_video", lambda *given, **named: pytest.fail("scored"))
        folders = [tmp_path / "real", tmp_path / "made"]
        for folder, names in zip(folders, ("ab", "cd"), strict=True):
            folder.mkdir()
            for name in names:
                (folder / f"{name}.mp4").write_text("nothing")
        with pytest.raises(ValueError, match=r"made: expected videos named as the real ones \(a, b\), got c, d"):
            score_run.score_paths(folders, expert, "tiny", versus=True)
        with pytest.raises(ValueError, match="at least one path of generated ones, got one path"):
            score_run.score_paths([folders[0], folders[0]], expert, "tiny", versus=True)
