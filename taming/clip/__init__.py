"""Pictures from text: latents of a first stage moved until CLIP finds that the picture fits."""
