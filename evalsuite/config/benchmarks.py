"""Text-to-image benchmarks: where their files are published, and how many images they ask for."""

from pathlib import Path

from pydantic import Field

from evalsuite.config.base import Frozen
from evalsuite.config.presets import FilePlace


class BenchmarkFile(Frozen):
    """One file of a benchmark."""

    role: str
    """What commands take it for: `metadata`, `object-names`, `dpg-csv`."""
    place: FilePlace


class BenchmarkSpec(Frozen):
    """A benchmark by its own files; they are fetched, not shipped."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    description: str
    num_prompts: int = Field(ge=1)
    images_per_prompt: int = Field(ge=1)
    files: tuple[BenchmarkFile, ...] = Field(min_length=1)
    licence: str
    source: str
    path: Path = Field(exclude=True)

    @property
    def prompts_file(self) -> BenchmarkFile:
        """The file that `--prompts` takes: the first one."""
        return self.files[0]
