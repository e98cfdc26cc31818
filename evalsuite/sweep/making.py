"""Making a directory of several runs: its manifest is committed once, never among others' files."""

from evalsuite.artifacts.storage import Storage
from evalsuite.errors import UsageError


def make_once(storage: Storage, manifest: str, content: bytes, noun: str) -> None:
    """Commit the manifest of a new directory; one that has a manifest is left as it is.

    Raises:
        UsageError: other files lie there; `noun` says what was looked for.
    """
    if storage.exists(manifest):
        return
    if storage.visible("") and not storage.exists(manifest):
        raise UsageError(
            f"{storage.root} holds other files and no {noun}: give an empty or new --output"
        )
    storage.check_writable()
    storage.commit(manifest, content)
