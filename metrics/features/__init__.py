"""Feature networks of the metrics and the projector, and readers of their weights."""
