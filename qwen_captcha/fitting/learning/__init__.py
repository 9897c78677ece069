"""Learning from batches of labelled images: teacher forcing, optimizers, adapters, augmentation."""
