"""evalsuite: generate and score images of diffusion models, reproducibly, at scale."""

__version__ = "0.1.0"
