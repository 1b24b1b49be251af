"""The user's own data: folders, tables and arrays."""
