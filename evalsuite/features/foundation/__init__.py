"""Extractors built on foundation models, DINOv2 and CLIP, whose weights the user brings."""
