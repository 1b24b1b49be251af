"""What several tricks have in common."""
