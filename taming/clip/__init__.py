"""Pictures from text: codes of a first stage moved until CLIP finds that the picture fits."""
