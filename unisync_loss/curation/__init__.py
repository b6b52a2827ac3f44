"""Quality of training data: checks of a data set, and correction of audio offsets."""
