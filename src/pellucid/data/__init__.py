"""From text files to batches of token numbers. This folder knows nothing of models, training or decoding."""
