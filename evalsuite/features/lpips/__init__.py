"""LPIPS: the network and the files that its weights come in."""
