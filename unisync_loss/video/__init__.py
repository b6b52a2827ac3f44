"""Video files to frames, tracked faces, landmarks and parsing maps."""
