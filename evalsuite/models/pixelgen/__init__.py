"""PixelGen, and JiT, whose class-conditional network it took over."""
