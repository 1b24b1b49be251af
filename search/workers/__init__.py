"""Workers that train the trials of a search through a folder that they share with its driver, without Ray."""
