"""Sound files to waveforms and frames."""
