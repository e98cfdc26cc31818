"""Files of text-to-image benchmarks, where they are on this machine."""

from pathlib import Path

from evalsuite.artifacts.digests import git_blob_of
from evalsuite.artifacts.downloads import cached_file
from evalsuite.config import BenchmarkFile, BenchmarkSpec, given_as, load_spec
from evalsuite.errors import CorruptionError, UsageError


def benchmark_file(spec: BenchmarkSpec, role: str) -> Path:
    """The file of a benchmark that has this role.

    Raises:
        UsageError: the benchmark has none, or it has not been fetched.
    """
    found = next((file for file in spec.files if file.role == role), None)
    if found is None:
        raise UsageError(f"benchmark {spec.name} has no file {role}")
    return file_here(spec, found)


def prompts_file(spec: BenchmarkSpec) -> Path:
    """The file that `--prompts` takes.

    Raises:
        UsageError: it has not been fetched.
    """
    return file_here(spec, spec.prompts_file)


def metadata_of(name: str) -> Path:
    """GenEval's metadata of the benchmark of this name.

    Raises:
        UsageError: they have not been fetched.
    """
    return benchmark_file(load_spec(BenchmarkSpec, name), "metadata")


def files_here(spec: BenchmarkSpec) -> list[Path]:
    """All files of a benchmark.

    Raises:
        UsageError: one has not been fetched.
    """
    return [file_here(spec, file) for file in spec.files]


def check_published(file: BenchmarkFile, path: Path) -> None:
    """Raise CorruptionError unless `path` is the file that git names, where only git names it."""
    if file.git_blob is None:
        return
    found = git_blob_of(path)
    if found != file.git_blob:
        raise CorruptionError(
            f"{path} is not the published {path.name}: git would call it {found[:12]}..., not"
            f" {file.git_blob[:12]}..."
        )


def file_here(spec: BenchmarkSpec, file: BenchmarkFile) -> Path:
    """One file of a benchmark: beside its YAML, or in this machine's cache.

    Raises:
        UsageError: it has not been fetched.
        CorruptionError: it is not the one that git names.
    """
    path = spec.path.parent / str(file.file) if file.place is None else cached_file(file.place)
    if path is None:
        name = given_as(spec)
        raise UsageError(f"--benchmark {name}: `evalsuite t2i fetch {name}` brings its files first")
    try:
        check_published(file, path)
    except CorruptionError as error:
        remedy = f"`evalsuite t2i fetch {given_as(spec)}` removes it"
        if file.place is None:
            remedy = f"put that one there, or correct git_blob in {spec.path}"
        raise CorruptionError(f"{error}: {remedy}") from error
    return path
