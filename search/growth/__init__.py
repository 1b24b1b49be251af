"""A search that is resumed with a changed space: what differs, which trials still count, and what is written down."""
