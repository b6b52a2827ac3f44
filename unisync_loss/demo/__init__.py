"""Demonstration: a small generator trained on one clip, without and with the loss."""
