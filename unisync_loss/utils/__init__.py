"""Files, processes, images and plots."""
