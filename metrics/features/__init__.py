"""Networks that metrics and the projector compare images with, and where their weights come from."""
