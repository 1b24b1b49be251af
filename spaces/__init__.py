"""What may vary: spaces of training recipes, written as short Python files."""
