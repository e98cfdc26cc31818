"""Text-to-image benchmarks: where their files are published, and how many images they ask for."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from evalsuite.config.base import Frozen, Sha256
from evalsuite.config.presets import FilePlace


class BenchmarkFile(Frozen):
    """One file of a benchmark."""

    role: str
    """What commands take it for: `metadata`, `object-names`, `dpg-csv`."""
    place: FilePlace | None = None
    file: str | None = None
    """One that comes with the benchmark, relative to the YAML file."""
    git_blob: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """What git calls its content; of files whose SHA-256 nobody has published."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.place is None) == (self.file is None):
            raise ValueError("give either the place of a file or a file beside this one")
        return self


class ShippedPicture(Frozen):
    """A photograph that comes with a benchmark, to test its detector before it judges."""

    file: str
    """Relative to the YAML file."""
    sha256: Sha256
    objects: tuple[str, ...] = Field(min_length=1)
    """Names of the classes that are found best in it, one for each object."""
    licence: str
    source: str


class PublishedScores(Frozen):
    """What a publication reports of one model; read for orientation, never ranked with results."""

    model: str
    source: str
    overall: float
    tags: dict[str, float] = Field(default_factory=dict)


class BenchmarkSpec(Frozen):
    """A benchmark by its own files, which are fetched, but for a demonstration's."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    description: str
    num_prompts: int = Field(ge=1)
    images_per_prompt: int = Field(ge=1)
    files: tuple[BenchmarkFile, ...] = Field(min_length=1)
    detector: Literal["shapes"] | None = None
    """A detector that comes with evalsuite, by which `run` scores without being asked."""
    known_picture: ShippedPicture | None = None
    """For a network that detects; None takes GenEval's."""
    published: tuple[PublishedScores, ...] = ()
    """Of the official scorer."""
    prompts_sha256: Sha256 | None = None
    """Of the prompts that `published` is of: GenEval's as the header of a file of verdicts names
    them, DPG-Bench's as `pipeline.dpg_protocol` takes their words."""
    licence: str
    source: str
    path: Path = Field(exclude=True)

    @property
    def prompts_file(self) -> BenchmarkFile:
        """The file that `--prompts` takes: the first one."""
        return self.files[0]
