"""Image files: decoding, checks before anything is trained, streaming."""
