from dataclasses import asdict

import pytest

from unisync_loss import UniSyncConfig
from unisync_loss.config import RETIRED_FIELDS


def test_json_round_trip():
    config = UniSyncConfig(audio="hubert", visual="3dmm", visual_features=50, threshold=0.61)
    assert UniSyncConfig.from_json(config.to_json()) == config


def test_retired_fields_are_dropped():
    config = UniSyncConfig(visual="landmarks")
    assert UniSyncConfig.from_dict(asdict(config) | RETIRED_FIELDS) == config
    assert not set(asdict(config)) & set(RETIRED_FIELDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audio": "mel", "colour": 1}', "unknown fields colour"),
        ('{"audio": "mfcc"}', "audio: expected one of mel, hubert, got 'mfcc'"),
        ('{"visual": "depth"}', "visual: expected one of rgb"),
        ('{"threshold": 1.5}', r"threshold: expected a number in \[0, 1\), got 1.5"),
        ('{"embedding": -1}', "embedding: expected a positive whole number"),
        ('{"audio_features": 64}', "expected 80 mel bins, got 64"),
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
