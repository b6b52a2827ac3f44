"""Scripts that made files bundled with unisync_loss; not part of the wheel."""
