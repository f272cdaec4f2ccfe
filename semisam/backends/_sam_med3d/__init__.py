"""Own implementation of SAM-Med3D: image encoder, prompt encoder, mask decoder, checkpoints."""
