"""Ways to train the same in less time: members and seeds together, CUDA graphs, divided batches, and their memory."""
