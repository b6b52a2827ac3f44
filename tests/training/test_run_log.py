"""What a run tells about itself."""

import json

import pytest

from unisync_loss.training.run_log import LOG, Log, PlateauWatch, diagnose, draw_curves, write_table


def test_the_plateau_is_that_of_the_margins():
    assert PlateauWatch((0.0, 0.0), 0.2, 0.5, 100).value == pytest.approx(0.6931, abs=1e-4)
    assert PlateauWatch((0.1, 0.3), 0.2, 0.5, 100).value == pytest.approx(0.5664, abs=1e-4)
    assert PlateauWatch((0.3, 0.7), 0.2, 0.5, 100).value == pytest.approx(0.3827, abs=1e-4)


def test_a_diagnosis_comes_after_so_many_steps_on_the_plateau():
    watch = PlateauWatch((0.1, 0.3), 0.2, 0.5, 50)
    asked = [watch.look(0.57) for _ in range(120)]
    assert [index for index, ask in enumerate(asked, 1) if ask] == [50, 100]
    assert watch.on
    for _ in range(200):
        watch.look(0.3)
    assert not watch.on
    assert watch.steps == 0


def test_the_diagnosis_names_causes_and_the_doctor():
    watch = PlateauWatch((0.1, 0.3), 0.2, 0.5, 1)
    watch.look(0.57)
    terms = {"p_positive": 0.51, "p_same": 0.505, "dead_audio": 0.95, "dead_visual": 0.1}
    text = "\n".join(diagnose(terms, watch, 20, ("clips",)))
    for part in ("0.566", "95% of the audio units are dead", "look alike", "20 clips are few", "unisync doctor clips"):
        assert part in text
    healthy = {"p_positive": 0.6, "p_same": 0.5, "dead_audio": 0.1}
    text = "\n".join(diagnose(healthy, watch, 2000, ("clips",)))
    assert not any(part in text for part in ("dead", "look alike", "few"))


def test_what_a_killed_run_wrote_too_much_is_forgotten(tmp_path):
    log = Log(tmp_path, lambda line: None)
    for stage, step in (("align", 3), ("sync", 1), ("sync", 2), ("sync", 3)):
        log.write({"stage": stage, "step": step, "loss": 1.0})
    with (tmp_path / LOG).open("a") as file:
        file.write('{"stage": "sy')
    log.rewind(["align", "sync"], 1, 2)
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("align", 3), ("sync", 1), ("sync", 2)]


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    log = Log(tmp_path, lambda line: None)
    for step in range(3):
        log.write({"stage": "sync", "step": step, "loss": 1.0 - step, "plateau": 0.5, "val_auc": 0.7})
    draw_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_row_a_record(tmp_path):
    log = Log(tmp_path, lambda line: None)
    log.write({"stage": "align", "step": 1, "loss": 0.5})
    log.write({"stage": "sync", "step": 1, "val_auc": 0.7})
    write_table(tmp_path)
    assert (tmp_path / "log.csv").read_text().splitlines() == ["stage,step,loss,val_auc", "align,1,0.5,", "sync,1,,0.7"]
