"""Where trials run: Ray, its cluster, shares of devices, interrupts."""
