"""The stages of a trial in order, and the store in which finished stages are kept."""
