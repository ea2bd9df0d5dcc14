"""One iteration of training: optimizer steps, regularizers, loss scaling and devices."""
