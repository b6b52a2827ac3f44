"""The demonstration: a small generator trained with and without the loss."""
