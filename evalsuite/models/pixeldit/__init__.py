"""PixelDiT: a patch transformer followed by a pixel transformer."""
