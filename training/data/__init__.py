"""Images on disk, TFRecords, and minibatches made from them."""
