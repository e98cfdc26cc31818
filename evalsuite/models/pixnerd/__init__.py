"""PixNerd: pixel neural field diffusion."""
