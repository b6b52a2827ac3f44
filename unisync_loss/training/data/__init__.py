"""Training data: clip cache, batches, augmentation."""
