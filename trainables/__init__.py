"""One trial: data, network, tricks, stages, and the checkpoint hand-over between them."""
