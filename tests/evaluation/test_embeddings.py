import pytest
from helpers.scoring import embedded

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.evaluation.embeddings import embed_clips


def test_coefficients_of_another_face_model_are_refused_before_any_work():
    expert = UniSyncExpert(UniSyncConfig(visual="3dmm", embedding=8))
    with pytest.raises(ValueError, match="expected the 40 coefficients that are made from video, got an expert on 64"):
        next(embed_clips(expert, [embedded().entry]))
