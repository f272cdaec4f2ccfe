"""SAM-Med3D, written anew: image encoder, prompt encoder, mask decoder, checkpoints."""
