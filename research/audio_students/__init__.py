"""Small audio networks taught by an expert on Whisper, from speech alone."""
