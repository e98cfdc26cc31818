"""evalsuite: generate and score images of diffusion models, reproducibly, at scale."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalsuite.pipeline.scorer import Scorer as Scorer
    from evalsuite.report.notebook import load_run as load_run

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """`Scorer` and `load_run`, imported when they are asked for: the package itself stays light."""
    if name == "Scorer":
        from evalsuite.pipeline.scorer import Scorer

        return Scorer
    if name == "load_run":
        from evalsuite.report.notebook import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
