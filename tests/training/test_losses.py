"""Losses of all pairs of a batch."""

import numpy as np
import pytest
import torch

from unisync_loss.training.losses import all_pairs_margin_loss, contrastive_loss, pair_kinds


def test_kinds():
    kinds = pair_kinds(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 0]))
    assert kinds.same.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert kinds.ignored.int().tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert kinds.cross.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]


def test_two_silences_are_no_mismatch():
    clip, speaker, time = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 9, 0, 9])
    kinds = pair_kinds(clip, speaker, time, torch.tensor([True, True, True, False]))
    assert kinds.same.int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert kinds.cross.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert kinds.ignored.int().tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_constant_answers_sit_on_the_plateau():
    clip = torch.arange(8).repeat_interleave(4)
    kinds = pair_kinds(clip, clip, torch.arange(4).repeat(8) * 3)
    constant = torch.full((32, 32), 0.3)
    value = contrastive_loss(constant, kinds, torch.tensor(10.0))
    assert value.item() == pytest.approx(0.2 * np.log(32) + 0.8 * np.log(4), rel=1e-5)
    expected = (-np.log(0.5) - 0.8 * np.log(0.6) - 0.2 * np.log(0.8)) / 2
    margin = all_pairs_margin_loss(torch.full((32, 32), 0.5), kinds, 0.1, 0.3)
    assert margin.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_one_speaker_has_a_loss():
    clip = torch.arange(8).repeat_interleave(4)
    kinds = pair_kinds(clip, torch.zeros(32), torch.arange(4).repeat(8) * 3)
    margin = all_pairs_margin_loss(torch.full((32, 32), 0.5), kinds, 0.1, 0.3)
    assert margin.item() == pytest.approx((-np.log(0.5) - np.log(0.6)) / 2, rel=1e-5)


def test_right_answers_are_better():
    clip = torch.arange(8).repeat_interleave(4)
    kinds = pair_kinds(clip, clip, torch.arange(4).repeat(8) * 3)
    right, constant = torch.eye(32) * 0.9, torch.full((32, 32), 0.3)
    assert contrastive_loss(right, kinds, torch.tensor(20.0)) < 0.1
    assert all_pairs_margin_loss(right, kinds, 0.1, 0.3) < all_pairs_margin_loss(constant, kinds, 0.1, 0.3)
