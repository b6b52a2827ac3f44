"""What generators hand to the loss: checks of shapes and values."""
