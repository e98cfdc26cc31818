"""What a scorer said of images, one JSON row for each, as committed shards of a stage.

    detections/<scorer_id>/0000000000-0000000128-<attempt>.jsonl
    receipts/detections/<scorer_id>/0000000000-0000000128.json    created last: commits the shard

They lie in the run whose images these are, and those of a folder in this machine's cache, until the
file that was asked for is written.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.artifacts.digests import cache_root
from evalsuite.artifacts.receipts import RangeIndex, Receipt, cover, read_receipts
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory, gaps_of
from evalsuite.artifacts.storage import Place, Storage, open_storage, place_of
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem
from evalsuite.pipeline.ranges import Range
from evalsuite.pipeline.shard_files import Maker, ShardFile, commit_file, forget_file
from evalsuite.pipeline.stages import STAGE_VERSION

Row = Mapping[str, Any]


class RowShard(NamedTuple):
    """Rows of consecutive images, and the SHA-256 of each one's pixels."""

    start: int
    rows: Sequence[Row]
    pixel_sha256: Sequence[str]


@dataclass(frozen=True)
class Judgements:
    """The committed rows of one scorer; it travels to other machines.

    Attributes:
        root: of the storage.
        owner: `plan_id` of a run, or what stands for the images of a folder.
        stage: such as `detections/<scorer_id>`.
        of_run: whether `root` is the run of these images.
    """

    root: str
    owner: str
    stage: str
    of_run: bool

    @classmethod
    def in_run(cls, run: RunDirectory, stage: str) -> "Judgements":
        """Beside the images of a run."""
        return cls(str(run.root.absolute()), run.manifest.plan_id, stage, of_run=True)

    @classmethod
    def in_cache(cls, source: str, stage: str) -> "Judgements":
        """In this machine's cache, for images whose digest is `source`."""
        key = hashlib.sha256(f"{source} {stage}".encode()).hexdigest()
        folder = (cache_root() / "judged" / key[:32]).absolute()
        return cls(str(folder), key, stage, of_run=False)

    @property
    def place(self) -> Place:
        """Where the storage lies."""
        return place_of(self.root)

    def gaps(self, num_images: int) -> list[Range]:
        """Images 0..N-1 that have no row; shards that cannot be trusted are removed first."""
        found = [(one.start, one.stop) for one in self._sound(num_images)]
        return gaps_of(found, 0, num_images)

    def rows(self, num_images: int) -> list[dict[str, Any]]:
        """The rows of images 0..N-1 that are there, in their order.

        Raises:
            CorruptionError: a file holds other rows than its receipt says.
        """
        found: list[dict[str, Any]] = []
        for part in cover(self._receipts(num_images), 0, num_images):
            first = part.receipt.start
            found += self._rows_of(part.receipt)[part.start - first : part.stop - first]
        return found

    def check_numerics(self, numerics_id: str) -> None:
        """Raise EnvironmentProblem when rows were made by another kind of machine."""
        for receipt in self._receipts():
            if receipt.numerics_id != numerics_id:
                model, torch = receipt.numerics.get("model"), receipt.numerics.get("torch")
                raise EnvironmentProblem(
                    f"{self._storage.root} holds {self.stage} of another kind of machine ({model},"
                    f" torch {torch}), and rows of two kinds are not mixed: go on with such a one,"
                    f" or remove receipts/{self.stage} there to begin anew"
                )

    def commit(
        self, shard: RowShard, attempt_id: str, seconds: float, worker: Mapping[str, Any]
    ) -> bool:
        """Write a shard and then its receipt; False when another attempt was first.

        Raises:
            ReproducibilityError: the other attempt was made of other pixels.
            StorageError: it cannot be written.
        """
        lines = [json.dumps(row, sort_keys=True, allow_nan=False) for row in shard.rows]
        content = "".join(f"{line}\n" for line in lines).encode()
        file = ShardFile(self.owner, self.stage, shard.start, shard.pixel_sha256, content, ".jsonl")
        maker = Maker(attempt_id, seconds, worker)
        return commit_file(self._storage, file, maker, keep_hashes=False)

    def discard(self, num_images: int, check: Callable[[Sequence[Row]], None]) -> None:
        """Remove shards with rows of images 0..N-1, which show a broken judge, to be made anew.

        Of further images those go that show it by themselves: among rows of a judge that is mended
        they would be counted. These rows do not show it of others, which stay.

        Args:
            num_images: N.
            check: raises DataError for rows that show it.
        """
        for receipt in read_receipts(self._storage, self.stage, self.owner, 0, num_images):
            forget_file(self._storage, receipt)
        for receipt in self._receipts():
            try:
                check(self._rows_of(receipt))
            except DataError:
                forget_file(self._storage, receipt)

    def forget(self) -> None:
        """Remove what lies in the cache, once it stands elsewhere; what lies in a run stays."""
        if not self.of_run:
            shutil.rmtree(Path(self.root), ignore_errors=True)

    @property
    def _storage(self) -> Storage:
        return open_storage(self.root)

    def _rows_of(self, receipt: Receipt) -> list[dict[str, Any]]:
        content = self._storage.read_checked(receipt.files[0].entry)
        rows = [json.loads(line) for line in content.splitlines()]
        if len(rows) != receipt.stop - receipt.start:
            raise CorruptionError(
                f"{self._storage.root}/{receipt.files[0].path} holds other rows than its"
                " receipt names: remove both"
            )
        return rows

    def _receipts(self, stop: int | None = None) -> list[Receipt]:
        """Those of this version: what another evalsuite wrote in another way is not there."""
        found = read_receipts(self._storage, self.stage, self.owner, 0, stop)
        return [receipt for receipt in found if receipt.stage_version == STAGE_VERSION]

    def _sound(self, num_images: int) -> list[Receipt]:
        """Receipts of this version with whole files of the pixels that are there; others go."""
        sound = []
        receipts = read_receipts(self._storage, self.stage, self.owner, 0, num_images)
        run = RunDirectory.open(self.root) if self.of_run and receipts else None
        images = RangeIndex(run.ledger.rows(IMAGES, 0, num_images)) if run else None
        for receipt in receipts:
            whole = self._storage.fault_of(receipt.files[0].entry) is None
            digest = None
            if run is not None and images is not None:
                digest = run.ledger.pixels_digest(images, receipt.start, receipt.stop)
            of_now = receipt.stage_version == STAGE_VERSION
            if of_now and whole and digest in {None, receipt.pixels_digest}:
                sound.append(receipt)
                continue
            forget_file(self._storage, receipt)
        return sound
