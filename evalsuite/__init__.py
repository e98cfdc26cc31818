"""evalsuite: generate and score images of diffusion models, reproducibly, at scale."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalsuite.pipeline.scorer import Scorer as Scorer

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """`evalsuite.Scorer`, imported when it is asked for: the package itself stays light."""
    if name == "Scorer":
        from evalsuite.pipeline.scorer import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
