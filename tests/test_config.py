from dataclasses import asdict

import pytest

from unisync_loss import UniSyncConfig
from unisync_loss.config import ADDED_FIELDS, RETIRED_FIELDS


def test_json_round_trip():
    config = UniSyncConfig(audio="hubert", visual="3dmm", visual_features=50, threshold=0.61)
    assert UniSyncConfig.from_json(config.to_json()) == config


def test_retired_fields_are_dropped():
    config = UniSyncConfig(visual="landmarks")
    assert UniSyncConfig.from_dict(asdict(config) | RETIRED_FIELDS) == config
    assert not set(asdict(config)) & set(RETIRED_FIELDS)


def test_fields_that_earlier_versions_did_not_have():
    values = asdict(UniSyncConfig())
    assert {"colour", "temperature", "midpoint"} == set(ADDED_FIELDS)
    config = UniSyncConfig.from_dict({name: values[name] for name in values if name not in ADDED_FIELDS})
    assert (config.colour, config.temperature) == (True, 0)


@pytest.mark.parametrize(("audio", "expected"), [("hubert", ("some/model", "a" * 40, 7)), ("mel", ("", "", -1))])
def test_earlier_names_of_fields(audio, expected):
    """Experts on mel had a HuBERT in their config, too."""
    names = ("audio_model", "audio_revision", "audio_layer")
    values = asdict(UniSyncConfig(audio=audio))
    values = {name: value for name, value in values.items() if name not in names}
    values |= {"hubert_model": "some/model", "hubert_revision": "a" * 40, "hubert_layer": 7}
    config = UniSyncConfig.from_dict(values)
    assert tuple(getattr(config, name) for name in names) == expected
    with pytest.raises(ValueError, match="unknown fields hubert_model"):
        UniSyncConfig.from_dict({**values, "audio_model": "some/model"})


def test_the_usual_audio_model_is_pinned():
    usual = UniSyncConfig(audio="hubert")
    assert (usual.audio_model, len(usual.audio_revision)) == ("facebook/hubert-large-ls960-ft", 40)
    assert UniSyncConfig(audio="hubert", audio_model="some/model").audio_revision == "main"
    whisper = UniSyncConfig(audio="whisper")
    assert (whisper.audio_model, whisper.audio_features, whisper.window_steps) == ("whisper-base", 512, 10)
    mel = UniSyncConfig()
    assert (mel.audio_model, mel.audio_revision, mel.audio_layer) == ("", "", -1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audio": "mel", "color": 1}', "unknown fields color"),
        ('{"colour": 0}', "colour: expected true, or false for a small expert on rgb, got 0"),
        ('{"visual": "landmarks", "colour": false}', "colour: expected true, or false for a small expert on rgb"),
        ('{"audio": "mfcc"}', "audio: expected one of mel, hubert, whisper, got 'mfcc'"),
        ('{"visual": "depth"}', "visual: expected one of rgb"),
        ('{"threshold": 1.5}', r"threshold: expected a number in \[0, 1\), got 1.5"),
        ('{"threshold": false}', r"threshold: expected a number in \[0, 1\), got False"),
        ('{"embedding": -1}', "embedding: expected a whole number from 1 to 65536"),
        ('{"embedding": true}', "embedding: expected a whole number from 1 to 65536, got True"),
        ('{"visual_features": [3]}', r"visual_features: expected a whole number from 1 to 65536, got \[3\]"),
        ('{"audio": "hubert", "audio_layer": true}', "audio_layer: expected int, got True"),
        ('{"audio_features": 64}', "expected 80 mel bins, got 64"),
        ('{"audio_model": "some/model"}', "audio_model: expected none for mel.*got 'some/model'"),
        ('{"audio_layer": 4}', "audio_layer: expected none for mel.*got 4"),
        ('{"audio": "hubert", "audio_layer": "last"}', "audio_layer: expected int, got 'last'"),
        ('{"channel_order": "bgr"}', "channel_order: expected 'rgb', got 'bgr'"),
        ('{"crop": "a mouth"}', "crop: expected 'one face, .*, got 'a mouth'"),
        ("[1]", "expected a JSON object, got list"),
        ("{", "does not parse"),
    ],
)
def test_wrong_config(text, message):
    with pytest.raises(ValueError, match=message):
        UniSyncConfig.from_json(text)


def test_frozen():
    with pytest.raises(AttributeError):
        UniSyncConfig().audio = "hubert"
