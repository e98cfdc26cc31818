"""Which arithmetic vision transformers run in."""

from evalsuite.config import ExtractorSpec
from evalsuite.errors import ConfigError


def check_float32(spec: ExtractorSpec) -> None:
    """Raise ConfigError when an extractor wants another arithmetic."""
    if spec.precision != "float32":
        raise ConfigError(f"extractor {spec.name}: {spec.family} runs in float32 only")
