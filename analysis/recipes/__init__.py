"""Questions about single recipes: what each trick contributes, which numbers matter, which trade-offs there are."""
