"""The tricks, one file each; the file is named like the trick."""
