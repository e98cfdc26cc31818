"""Gathering what probes look at, from a run or from samples that someone else made.

Legend: N samples, M pictures.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import Images
from evalsuite.artifacts.receipts import cover
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.artifacts.samples import SampleSet
from evalsuite.artifacts.samples.folder import labels_of_subfolders
from evalsuite.config import (
    Claim,
    ExtractorSpec,
    ModelPreset,
    Plan,
    claims_of,
    load_claims,
    load_spec,
    names_of,
)
from evalsuite.diagnosis.material import FARTHER, MOST, Expected, Material, RealData, ScoredAgain
from evalsuite.diagnosis.recorded import keeps_features, scored_again
from evalsuite.diagnosis.references import (
    names_by_size,
    others_like,
    real_data,
    usable_extractors,
    wanted_references,
)
from evalsuite.diagnosis.twins import Twins, find_twins
from evalsuite.errors import DataError, EvalsuiteError
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.moments import moments_of
from evalsuite.pipeline.analysis import chosen_images, images_of_run, records_of
from evalsuite.pipeline.embedding import embed_images
from evalsuite.pipeline.evaluation import check_scorable
from evalsuite.seeding import labels_of

_OTHER_KIND = 0.5
"""Of the reference's variance. Digits of a fraction of the training are at 0.4, noise at 1.8."""
FEWEST = 16
"""Samples below which nothing can be told."""


class Subject(NamedTuple):
    """The samples, before anything is computed of them; parts are those of `Material`."""

    where: str
    num_samples: int
    size: tuple[int, int]
    rows_N: NDArray[np.int64]
    digests: list[str]
    images_MHWC: Images | None
    image_rows_M: NDArray[np.int64]
    codec: str | None
    all_labels: NDArray[np.int64] | None
    layout_is_order: bool
    num_classes: int | None
    run: RunDirectory | None
    records: list[Record]
    lacking: dict[str, str]

    @property
    def plan(self) -> Plan | None:
        """What made them."""
        return self.run.plan if self.run else None


class Comparison(NamedTuple):
    """What samples are compared with."""

    extractor: ExtractorSpec | None
    asked: RealData | None
    used: RealData | None
    others: list[RealData]


def subject_of_run(run: RunDirectory) -> Subject:
    """The first samples of a run.

    Raises:
        UsageError: random weights, or nobody knows how many samples were asked for.
        DataError: they are too few.
        IncompleteError: samples are missing.
    """
    check_scorable(run)
    total = run.num_asked()
    _check_enough(str(run.root), total)
    count = min(total, MOST)
    run.slices(run.spans(IMAGES, 0, count), 0, count, "images")
    receipts = cover(run.receipts(IMAGES, 0, count), 0, count)
    digests = [
        part.receipt.pixel_sha256[index - part.receipt.start]
        for part in receipts
        for index in range(part.start, part.stop)
    ]
    lacking = {}
    rows_N = image_rows_M = np.arange(count)
    pictures, kept = None, run.pixel_receipts(0, count)
    if sum(part.stop - part.start for part in cover(kept, 0, count)) == count:
        pictures = images_of_run(run, range(count))
    else:
        found = _kept_images(run, count)
        image_rows_M = np.array(sorted(found), dtype=np.int64)
        pictures = np.stack([found[row] for row in sorted(found)]) if len(found) >= FEWEST else None
        lacking["pixels"] = "the run keeps no pixels: add them with `--images all`"
    labels = labels_of(run.plan, 0, total, run.manifest.file_labels)
    return Subject(
        str(run.root),
        total,
        run.plan.size,
        rows_N,
        digests,
        pictures,
        image_rows_M,
        "lossless",
        None if run.plan.text else np.array(labels, dtype=np.int64),
        False,
        run.plan.num_classes,
        run,
        records_of(run),
        lacking,
    )


def _check_enough(where: str, count: int) -> None:
    if count < FEWEST:
        raise DataError(f"{where} holds {count} images: nothing can be told of fewer than {FEWEST}")


def _kept_images(run: RunDirectory, stop: int) -> dict[int, Images]:
    """Pixels by sample, of those that were kept."""
    return dict(run.find_images(run.kept_indices(stop)))


def subject_of_samples(samples: SampleSet) -> Subject:
    """A random choice of someone else's samples, in their order.

    Raises:
        DataError: they cannot be read, or are too few.
    """
    _check_enough(samples.where, samples.num_images)
    rows_N = np.arange(samples.num_images)
    if samples.num_images > MOST:
        chosen = np.random.default_rng(0).choice(samples.num_images, MOST, replace=False)
        rows_N = np.sort(chosen)
    pictures = chosen_images(samples, rows_N.tolist())
    by_folder = samples.names is not None and labels_of_subfolders(samples.names) is not None
    return Subject(
        samples.where,
        samples.num_images,
        samples.size,
        rows_N,
        [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in pictures],
        pictures,
        rows_N,
        samples.codec,
        samples.labels_N,
        by_folder,
        None,
        None,
        [],
        {},
    )


def expected_of(claim: str | None, run: RunDirectory | None) -> Expected | None:
    """What is to be reproduced: the model that the user names, else that of the run.

    Raises:
        UsageError: no such model.
    """
    name = claim or (run.manifest.model if run else None)
    if name is None or (claim is None and name not in names_of(ModelPreset)):
        return None
    preset = load_spec(ModelPreset, name)
    published = [one for one in claims_of(preset, load_claims()) if one.fid is not None]
    first: Claim | None = published[0] if published else None
    return Expected(preset, first, claim is not None)


def comparison_of(
    subject: Subject,
    expected: Expected | None,
    reference: str | None,
    extractor: ExtractorSpec | None,
    device: torch.device,
) -> Comparison:
    """Extractor and reference: as asked, as measured, as the model has them, or as they fit.

    Raises:
        UsageError: a reference that does not exist.
        DataError: a file that cannot be read as a reference.
    """
    spec = extractor or _extractor_of(subject, expected, reference)
    names = _names(subject, expected, reference, spec)
    asked = used = None
    for place, (name, is_asked) in enumerate(names):
        try:
            found = real_data(name, subject.size, spec, device, given=is_asked and place == 0)
        except EvalsuiteError:
            if reference is not None and place == 0:
                raise
            continue
        asked = found if is_asked and asked is None else asked
        if found.unfit is None:
            used = found
            break
    others = list(others_like(used, subject.size, spec, device)) if used and spec else []
    return Comparison(spec, asked, used, others)


def _names(
    subject: Subject,
    expected: Expected | None,
    reference: str | None,
    spec: ExtractorSpec | None,
) -> list[tuple[str, bool]]:
    """References to try, and whether each is what the number is against."""
    size, found = subject.size, []
    if reference is not None:
        found.append((reference, True))
    measured = [r.reference for r in subject.records if r.metric == "fid" and r.reference]
    # of several numbers, that against the wanted reference is the one to be explained
    wanted = wanted_references(expected)
    measured.sort(key=lambda name: name not in wanted)
    found += [(name, reference is None) for name in dict.fromkeys(measured)]
    if expected is not None:
        evaluation = expected.preset.evaluation
        own = [evaluation.reference] if evaluation.reference else []
        own += names_by_size(evaluation.protocol, size)
        found += [(name, not found) for name in own]
    if spec is not None:
        found += [(name, False) for name in names_by_size(spec.default_protocol, size)]
    unique: dict[str, bool] = {}
    for name, is_asked in found:
        unique.setdefault(name, is_asked)
    return list(unique.items())


def _extractor_of(
    subject: Subject, expected: Expected | None, reference: str | None
) -> ExtractorSpec | None:
    """The model's, that of a registered reference, or one that takes such images; if it is here."""
    usable = {spec.name: spec for spec in usable_extractors(subject.size)}
    wanted = []
    if expected is not None:
        wanted.append(expected.preset.evaluation.extractor)
    wanted += [r.protocol.extractor.rpartition("-")[0] for r in subject.records]
    if reference is None and not wanted:
        # nothing else says what kind of images these are
        wanted += [name for name, spec in usable.items() if spec.input_size is not None]
    return next((usable[name] for name in wanted if name in usable), None) or next(
        iter(usable.values()), None
    )


def features_of(subject: Subject, spec: ExtractorSpec, device: torch.device) -> FeatureTable | None:
    """Features of the samples: as the run has them of all, else of their pixels."""
    run, count = subject.run, len(subject.digests)
    if run is not None and keeps_features(run, spec, count):
        return run.read_features(spec.extractor_id, count)
    pictures = subject.images_MHWC
    if pictures is None or len(pictures) != count:
        return None
    if spec.input_size not in {None, subject.size}:
        return None
    return embed_images(pictures, spec, device)


def gather(
    subject: Subject, expected: Expected | None, against: Comparison, device: torch.device
) -> Material:
    """Everything that probes look at."""
    lacking, spec, table = dict(subject.lacking), against.extractor, None
    if spec is None:
        lacking["features"] = "no extractor for these images is on this machine"
    else:
        table = features_of(subject, spec, device)
        if table is None:
            lacking["features"] = (
                f"there are no features by {spec.name} of all samples and no pixels for it"
            )
    used, others = against.used, against.others
    if used is not None and against.asked is None and _is_other_kind(table, used):
        lacking["reference"] = f"{used.name} is of other images than these: give --reference"
        used, others = None, []
    elif used is not None:
        # or every probe that compares would blame the samples for a wrong reference
        used = _of_their_kind(table, used, others)
    elif used is None:
        why = against.asked.unfit if against.asked else None
        lacking["reference"] = why or "no reference is known: give --reference"
    if subject.all_labels is None:
        lacking["labels"] = "the samples come without labels"
    twins = None if subject.run is not None else _twins(subject, expected, table, device)
    if isinstance(twins, str):
        lacking["twins"] = twins
    again: list[ScoredAgain] = []
    if subject.run is not None and spec is not None and table is not None:
        again = scored_again(subject.run, subject.records, table, spec, device)
    num_classes = subject.num_classes
    if num_classes is None and expected is not None:
        num_classes = expected.preset.num_classes
    return Material(
        where=subject.where,
        num_samples=subject.num_samples,
        size=subject.size,
        rows_N=subject.rows_N,
        digests=subject.digests,
        images_MHWC=subject.images_MHWC,
        image_rows_M=subject.image_rows_M,
        codec=subject.codec,
        all_labels=subject.all_labels,
        num_classes=num_classes,
        features=table,
        extractor=spec,
        embed=None if spec is None else functools.partial(embed_images, spec=spec, device=device),
        layout_is_order=subject.layout_is_order,
        asked=against.asked,
        reference=used,
        others=others,
        expected=expected,
        plan=subject.plan,
        records=subject.records,
        scored_again=again,
        twins=None if isinstance(twins, str) else twins,
        lacking=lacking,
    )


def _twins(
    subject: Subject,
    expected: Expected | None,
    table: FeatureTable | None,
    device: torch.device,
) -> Twins | str:
    pictures = subject.images_MHWC
    assert pictures is not None
    # of copies nobody knows which one is in its place
    times = Counter(subject.digests)
    alone_N = np.array([times[digest] == 1 for digest in subject.digests])
    if alone_N.sum() < FEWEST:
        return f"fewer than {FEWEST} samples have no copy"
    classes_NK = table.probabilities_NK if table is not None else None
    seen_N = None if classes_NK is None else classes_NK[alone_N].argmax(axis=1)
    preset = expected.preset if expected else None
    return find_twins(pictures[alone_N], subject.rows_N[alone_N], seen_N, preset, device)


def _is_other_kind(table: FeatureTable | None, guess: RealData) -> bool:
    """Whether a reference that nobody named is of images that have nothing to do with these."""
    if table is None or guess.factor is None:
        return False
    spread = float(np.trace(guess.factor.moments.cov_DD))
    return frechet_distance(moments_of(table.pool_ND), guess.factor) > _OTHER_KIND * spread


def _of_their_kind(
    table: FeatureTable | None, used: RealData, others: Sequence[RealData]
) -> RealData:
    """The reference in use, or another one that is far nearer to the samples."""
    if table is None or used.factor is None:
        return used
    moments = moments_of(table.pool_ND)
    apart = {one.name: frechet_distance(moments, one.factor) for one in others if one.factor}
    ours = frechet_distance(moments, used.factor)
    nearest = min(others, key=lambda one: apart.get(one.name, np.inf), default=used)
    return nearest if apart.get(nearest.name, np.inf) * FARTHER <= ours else used
