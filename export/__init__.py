"""Networks in the formats of other runtimes: SavedModel, Keras, ONNX, LiteRT, and arrays."""
