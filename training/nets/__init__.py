"""What networks are made of: layers, growing by resolution, precision, and starting from other networks."""
