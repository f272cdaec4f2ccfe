"""From cases to batches: the store of volumes, the sampler and the augmentation."""
