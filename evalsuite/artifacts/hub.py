"""Files of a hub repository, at a pinned commit, checked against the hash that the hub reports."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evalsuite.artifacts.digests import known_sha256
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, UsageError

Verified = Literal["stated", "hub", "hub_git"]
"""stated: by a SHA-256 that the caller gave. hub: by the SHA-256 that the hub reports. hub_git: by
the hub's git hash (SHA-1), which is all that it reports of a small file outside of LFS."""

NEWEST = "main"
_FOLDER_FILES = (
    *("*.json", "*.model", "*.txt"),
    *("model.safetensors", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors"),
    "*model-*-of-*[0-9][0-9][0-9].safetensors",
)
"""Of safetensors those that are loaded by default: no variant such as `*.fp16.safetensors`, and no
single file for other programs beside a pipeline."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HubFile(NamedTuple):
    """A file of a hub repository that is here now; `revision` is always a commit."""

    path: Path
    repo: str
    revision: str
    filename: str
    sha256: str
    verified: Verified


def hub_file(
    repo: str,
    revision: str | None,
    filename: str,
    *,
    sha256: str | None = None,
    offline: bool = False,
    cache_dir: Path | None = None,
) -> HubFile:
    """Download a file, or find it in the cache, and check every byte.

    Args:
        repo: `OWNER/NAME` of a model repository.
        revision: a commit of 40 hexadecimal digits; a branch or a tag, None for the newest, is
            looked up first, and what it is now is in the result.
        filename: the file's path in the repository.
        sha256: what the content must have, where a preset or a lock file states it.
        offline: use the cache alone, and open no connection.
        cache_dir: instead of the hub client's own cache.

    Raises:
        DataError: there is no such repository, revision or file.
        CorruptionError: the content has another hash than was stated or reported.
        EnvironmentProblem: the hub client is not installed, the hub cannot be reached or does not
            let us in, or a file is not in the cache of an offline machine.
    """
    path = _path_of(repo, revision or NEWEST, filename, offline=offline, cache_dir=cache_dir)
    commit = _commit_of(path, filename)
    what = f"{repo}@{commit[:8]}:{filename}"
    if revision is not None and _COMMIT.fullmatch(revision) and commit != revision:
        raise CorruptionError(f"{what} was served in place of revision {revision}")
    content = known_sha256(path)
    if sha256 is not None:
        if content != sha256:
            raise CorruptionError(_unlike(what, path, content, sha256))
        return HubFile(path, repo, commit, filename, content, "stated")
    return HubFile(path, repo, commit, filename, content, _check_reported(what, path, content))


def hub_folder(
    repo: str, revision: str | None, *, offline: bool = False, cache_dir: Path | None = None
) -> Path:
    """A repository's weights, configuration and tokenizer files in a folder, each checked.

    Pickled weights, variants and programs are not fetched. Arguments and errors are those of
    `hub_file`; the folder's name is the commit.
    """
    wanted = revision or NEWEST
    what = f"{repo}@{wanted}"
    with _explained(what, offline=offline) as client:
        found = client.snapshot_download(
            repo,
            revision=_pinned(client, repo, wanted, offline=offline),
            allow_patterns=list(_FOLDER_FILES),
            cache_dir=cache_dir,
            endpoint=_endpoint(),
            local_files_only=offline,
        )
    folder = Path(found)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not paths:
        raise DataError(f"{what}: the repository holds no safetensors or JSON files")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        _check_reported(f"{what}:{name}", path, known_sha256(path))
    return folder


def _path_of(
    repo: str, revision: str, filename: str, *, offline: bool, cache_dir: Path | None
) -> Path:
    """Where the hub client put the file, in its cache."""
    with _explained(f"{repo}@{revision}:{filename}", offline=offline) as client:
        if _COMMIT.fullmatch(revision):
            known = client.try_to_load_from_cache(repo, filename, cache_dir, revision)
            if isinstance(known, str):
                return Path(known)
        found = client.hf_hub_download(
            repo,
            filename,
            revision=_pinned(client, repo, revision, offline=offline),
            cache_dir=cache_dir,
            endpoint=_endpoint(),
            local_files_only=offline,
        )
    return Path(found)


def _pinned(client: Any, repo: str, revision: str, *, offline: bool) -> str:  # noqa: ANN401
    """The commit that a revision is now; offline, the cache knows what it was.

    A commit is asked for too: this fails at once where a download would be tried for long.
    """
    if offline:
        return revision
    sha: str | None = client.HfApi(endpoint=_endpoint()).model_info(repo, revision=revision).sha
    return sha or revision


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextlib.contextmanager
def _explained(what: str, *, offline: bool) -> Iterator[Any]:
    """The hub client, whose errors become one line each."""
    try:
        import huggingface_hub as client
        from huggingface_hub import errors
    except ImportError as error:
        raise EnvironmentProblem(
            "weights on a hub need huggingface_hub: pip install huggingface-hub, or give a"
            " file with --weights"
        ) from error
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        yield client
    except errors.HFValidationError as error:
        raise UsageError(f"{what}: this is no name of a hub repository: give OWNER/NAME") from error
    except errors.LocalEntryNotFoundError as error:
        raise EnvironmentProblem(_absent(what, offline=offline)) from error
    except errors.GatedRepoError as error:
        raise EnvironmentProblem(
            f"{what}: the repository is gated: accept its terms on the hub and log in"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DataError(
            f"{what}: the hub knows no such repository or revision, or it is private: check the"
            " name, or log in"
        ) from error
    except errors.EntryNotFoundError as error:
        raise DataError(f"{what}: the repository has no such file at that revision") from error
    except (http_error, errors.FileMetadataError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EnvironmentProblem(
            f"{what}: the hub cannot be used: {reason}; give a file with --weights, or"
            " `evalsuite fetch` it where there is a network"
        ) from error


def _absent(what: str, *, offline: bool) -> str:
    if offline:
        return f"{what} is not in the hub's cache, and --offline looks nothing up: fetch it before"
    return f"{what} is not in the hub's cache, and the hub cannot be reached"


def _commit_of(path: Path, filename: str) -> str:
    """The commit in `.../snapshots/COMMIT/FILENAME`, where the hub's cache keeps a file."""
    commit = path.parts[-1 - len(Path(filename).parts)]
    if _COMMIT.fullmatch(commit) is None:
        raise EnvironmentProblem(f"{path} is not a place in the hub's cache: give a plain file")
    return commit


def _check_reported(what: str, path: Path, sha256: str) -> Verified:
    """Compare with the hash that the hub reported, which names the cache's blob."""
    reported = path.resolve().name
    if _SHA256.fullmatch(reported):
        if reported != sha256:
            raise CorruptionError(_unlike(what, path.resolve(), sha256, reported))
        return "hub"
    if _COMMIT.fullmatch(reported):
        if reported != _git_hash(path):
            raise CorruptionError(_unlike(what, path.resolve(), _git_hash(path), reported))
        return "hub_git"
    raise DataError(
        f"{what}: the hub's hash of the file is not known here (its cache holds no links): state"
        " the SHA-256, or give a plain file"
    )


def _git_hash(path: Path) -> str:
    """The hash under which git stores a file (SHA-1 with a header)."""
    content = path.read_bytes()
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _unlike(what: str, path: Path, actual: str, wanted: str) -> str:
    return (
        f"{what} has the hash {actual[:12]}..., not {wanted[:12]}...: remove {path} and download"
        " it again"
    )
