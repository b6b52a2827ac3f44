"""Monitoring: chance-level losses and their likely causes."""

import pytest

from unisync_loss.training.validation import PlateauWatch, diagnose


def test_the_plateau_is_that_of_the_margins():
    assert PlateauWatch((0.0, 0.0), 0.2, 0.5, 100).value == pytest.approx(0.6931, abs=1e-4)
    assert PlateauWatch((0.1, 0.3), 0.2, 0.5, 100).value == pytest.approx(0.5664, abs=1e-4)
    assert PlateauWatch((0.3, 0.7), 0.2, 0.5, 100).value == pytest.approx(0.3827, abs=1e-4)


def test_a_diagnosis_is_due_after_n_steps_on_the_plateau():
    watch = PlateauWatch((0.1, 0.3), 0.2, 0.5, 50)
    asked = [watch.update(0.57) for _ in range(120)]
    assert [index for index, ask in enumerate(asked, 1) if ask] == [50, 100]
    assert watch.on
    for _ in range(200):
        watch.update(0.3)
    assert not watch.on
    assert watch.steps == 0


def test_the_diagnosis_names_causes_and_the_doctor():
    watch = PlateauWatch((0.1, 0.3), 0.2, 0.5, 1)
    watch.update(0.57)
    terms = {"p_positive": 0.51, "p_same": 0.505, "dead_audio": 0.95, "dead_visual": 0.1}
    text = "\n".join(diagnose(terms, watch, 20, ("clips",)))
    for part in ("0.566", "95% of the audio units are dead", "score alike", "20 clips are few", "unisync doctor clips"):
        assert part in text
    healthy = {"p_positive": 0.6, "p_same": 0.5, "dead_audio": 0.1}
    text = "\n".join(diagnose(healthy, watch, 2000, ("clips",)))
    assert not any(part in text for part in ("dead", "score alike", "few"))
