"""What runs next, and what is stopped early."""
