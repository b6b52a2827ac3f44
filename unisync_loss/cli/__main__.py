"""``python -m unisync_loss.cli`` and ``torchrun -m unisync_loss.cli``."""

from unisync_loss.cli import main

main()
