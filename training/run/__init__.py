"""What a training run keeps and shows: checkpoints, pictures, pickles, reports, and its time limit."""
