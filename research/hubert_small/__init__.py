"""Pretraining of ``hubert-small`` from speech alone."""
