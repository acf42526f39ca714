"""Taming Transformers, rebuilt: VQGAN tokenizers and autoregressive transformers for images (Esser et al. 2021)."""
