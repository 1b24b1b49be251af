"""What a trial leaves, where it is stored, and how it is read back."""
