"""Taming Transformers, rebuilt: VQGAN tokenizers and autoregressive transformers for images (Esser et al., CVPR 2021)."""
