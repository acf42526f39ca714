"""How good reconstructions and samples are: measures of tensors, of folders of images, and whole jobs."""
