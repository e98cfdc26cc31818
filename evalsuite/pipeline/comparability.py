"""Whether two numbers may be compared: rules over the fields of their protocols.

Measurement fields must be equal. Sampling fields may be unknown, or be stated by the user.
Sources of the effects: `docs/comparing.md`.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from evalsuite.artifacts.records import Detail, Protocol, Record
from evalsuite.errors import UsageError, nearest

SEEDS = "seeds"
"""Not a field of a protocol: allows two runs whose ranges of seeds overlap."""
DECLARABLE = ("label_rule", "uint8_rule", "codec")
_MEASUREMENT = ("num_samples", "extractor_sha256", "resize", "precision", "reference_sha256")
_FIELDS = (*_MEASUREMENT, "extractor", "backend", *DECLARABLE, "sample_resize", SEEDS)
_ALIASES = {
    "labels": "label_rule",
    "uint8": "uint8_rule",
    "reference": "reference_sha256",
    "n": "num_samples",
    "extractor_weights": "extractor_sha256",
}
_VALUES = {
    "uint8_rule": ("half_up", "half_even", "truncate"),
    "codec": ("lossless", "lossy"),
    "label_rule": ("modulo", "balanced", "random", "blocked"),
}
_BACKENDS = frozenset({"torch", "tensorflow"})


class Kind(StrEnum):
    """What is known of one field of two records that is not simply equal."""

    EQUIVALENT = "equivalent"
    """Not the same, but the number does not depend on the difference beyond what is stated."""
    DECLARED = "declared"
    """Equal, because the user says so."""
    UNKNOWN = "unknown"
    DIFFERENT = "different"


class Relation(NamedTuple):
    """One field in which two records are not known to be equal.

    Attributes:
        field: name in the protocol; `details.k` for the metric's own.
        kind: what is known.
        a: value of the first record, as text.
        b: value of the second.
        effect: a clause: what such a difference did elsewhere, or what follows.
    """

    field: str
    kind: Kind
    a: str
    b: str
    effect: str


class Side(NamedTuple):
    """One of two records that meet.

    Attributes:
        protocol: what decided its number.
        declared: sampling fields that the user stated.
        num_classes: how many classes its label rule chooses from; None when unknown.
    """

    protocol: Protocol
    declared: Mapping[str, str]
    num_classes: int | None = None

    def sampling(self, field: str) -> str | None:
        """A sampling field: as recorded, else as declared, else None."""
        recorded: str | None = getattr(self.protocol, field)
        return recorded if recorded is not None else self.declared.get(field)

    def is_declared(self, field: str) -> bool:
        """Whether the value of a sampling field is the user's statement."""
        return getattr(self.protocol, field) is None and field in self.declared


class Comparability(NamedTuple):
    """All fields in which two records are not known to be equal, and the ones that are allowed."""

    relations: tuple[Relation, ...]
    allowed: frozenset[str]

    @property
    def refusals(self) -> tuple[Relation, ...]:
        """Known differences that nobody allowed."""
        return tuple(r for r in self._of(Kind.DIFFERENT) if r.field not in self.allowed)

    @property
    def caveats(self) -> tuple[Relation, ...]:
        """Known differences that the user allowed."""
        return tuple(r for r in self._of(Kind.DIFFERENT) if r.field in self.allowed)

    @property
    def unknown(self) -> tuple[Relation, ...]:
        """Fields for which the row carries a dagger."""
        return self._of(Kind.UNKNOWN)

    @property
    def remarks(self) -> tuple[Relation, ...]:
        """Fields that are equal as declared, or equivalent."""
        return tuple(r for r in self.relations if r.kind in {Kind.EQUIVALENT, Kind.DECLARED})

    @property
    def ranked(self) -> bool:
        """Whether a reader may order the two by their numbers."""
        return not self._of(Kind.DIFFERENT) and not self.unknown

    def _of(self, kind: Kind) -> tuple[Relation, ...]:
        return tuple(relation for relation in self.relations if relation.kind is kind)


def comparability(a: Side, b: Side, allowed: Iterable[str] = ()) -> Comparability:
    """Every field in which two records of one metric are not known to be equal.

    Raises:
        ValueError: records of two metrics.
    """
    if a.protocol.metric != b.protocol.metric:
        raise ValueError(f"{a.protocol.metric} and {b.protocol.metric} are two metrics")
    ours, theirs = a.protocol, b.protocol
    found = [
        _differing(field, getattr(ours, field), getattr(theirs, field))
        for field in _MEASUREMENT
        if getattr(ours, field) != getattr(theirs, field)
    ]
    found += _extractors(ours, theirs)
    found += _backends(ours, theirs)
    keys = sorted(ours.details.keys() | theirs.details.keys())
    found += [
        _differing(f"details.{key}", ours.details.get(key), theirs.details.get(key))
        for key in keys
        if ours.details.get(key) != theirs.details.get(key)
    ]
    found += [one for field in DECLARABLE for one in _sampling(field, a, b)]
    if ours.sample_resize != theirs.sample_resize:
        found.append(_differing("sample_resize", ours.sample_resize, theirs.sample_resize))
    return Comparability(tuple(found), frozenset(allowed))


def _extractors(ours: Protocol, theirs: Protocol) -> list[Relation]:
    """The extractor's id hashes weights, resize and precision too, which are told by themselves."""
    told = ("extractor_sha256", "resize", "precision")
    a, b = ours.extractor, theirs.extractor
    if any(getattr(ours, field) != getattr(theirs, field) for field in told):
        a, b = a.rpartition("-")[0], b.rpartition("-")[0]
    return [] if a == b else [_differing("extractor", a, b)]


def _backends(ours: Protocol, theirs: Protocol) -> list[Relation]:
    if ours.backend == theirs.backend:
        return []
    if {ours.backend, theirs.backend} != _BACKENDS:
        return [_differing("backend", ours.backend, theirs.backend)]
    agreement = {
        "inception_score": "5e-6 relative",
        "precision": "3 of N samples",
        "recall": "3 of N samples",
    }.get(ours.metric, "5e-5 relative")
    clause = f"the two agree within {agreement}"
    return [Relation("backend", Kind.EQUIVALENT, ours.backend, theirs.backend, clause)]


def _sampling(field: str, a: Side, b: Side) -> list[Relation]:
    ours, theirs = a.sampling(field), b.sampling(field)
    shown = (_shown(field, a), _shown(field, b))
    if ours is None or theirs is None:
        return [Relation(field, Kind.UNKNOWN, *shown, _effect(field, ours, theirs))]
    if field == "label_rule" and ours != theirs:
        kind, effect = _label_rules(a, b, ours, theirs)
    elif ours != theirs:
        kind, effect = Kind.DIFFERENT, _effect(field, ours, theirs)
    elif a.is_declared(field) or b.is_declared(field):
        kind, effect = Kind.DECLARED, "declared, not verified"
    else:
        return []
    return [Relation(field, kind, *shown, effect)]


def _label_rules(a: Side, b: Side, ours: str, theirs: str) -> tuple[Kind, str]:
    """How two label rules with other names relate: balanced ones differ in their order alone."""
    families = (_family(ours, a), _family(theirs, b))
    if families[0] != families[1]:
        return Kind.DIFFERENT, _effect("label_rule", ours, theirs)
    if families[0][0] == "random":
        return Kind.EQUIVALENT, "both are random, each by a seed of its own"
    if not _knows_order(a.protocol):
        return (
            Kind.EQUIVALENT,
            "both give each class as many images, and no order enters this number",
        )
    if "balanced" in {_rule(ours), _rule(theirs)}:
        return Kind.UNKNOWN, f"the order of balanced labels is unknown, and {_ORDER}"
    return Kind.DIFFERENT, _ORDER


def _knows_order(protocol: Protocol) -> bool:
    """Whether the order of samples decides how they are split."""
    size = protocol.details.get("split_size")
    one_split = isinstance(size, int) and size >= protocol.num_samples
    return protocol.details.get("order") == "sample_index" and not one_split


def _family(text: str, side: Side) -> tuple[str, str]:
    """What a label rule has in common with others, and the classes that it chooses from."""
    rule, _, classes = text.partition(" of ")
    kind, _, number = rule.partition(":")
    if kind == "blocked" and number.isdecimal() and side.num_classes:
        whole = side.protocol.num_samples % (int(number) * side.num_classes) == 0
        kind = "balanced" if whole else rule
    elif kind == "modulo":
        kind = "balanced"
    elif kind != "random":
        kind = rule
    return kind, classes


def _rule(text: str) -> str:
    return text.partition(" of ")[0]


_ORDER = (
    "splits in index order depend on the order of classes (in a synthetic check an Inception Score"
    " of 278 shuffled was 94 sorted)"
)
_EFFECTS = {
    "num_samples": "the bias of a finite N does not cancel: FID 5.2 from 30,000 images was 4.9 from"
    " 40,000",
    "extractor": "features of two networks have scales of their own",
    "extractor_sha256": "other weights are another network, with features of its own scale",
    "resize": "another resize moves features by 10 to 20 % of their spread",
    "precision": "other arithmetic of the extractor moves every feature; not measured for FID",
    "backend": "another implementation; not measured",
    "reference_sha256": "ADM's and JiT's statistics of ImageNet alone are up to 0.08 FID apart",
    "details.k": "another number of neighbours is another metric",
    "details.strict": "points at exactly the radius count or do not; not measured",
    "details.arithmetic": "float16 against float32 moves precision and recall by 0.001 to 0.016",
    "details.order": _ORDER,
    "details.split_size": "an Inception Score of other splits has another bias",
    "details.even_splits": "an Inception Score of other splits has another bias",
    "details.equal_splits": "an Inception Score of other splits has another bias",
    "details.bias": "logits with a bias give 0.4 to 2 % other scores",
    "details.estimator": "random subsets scatter around the estimate from all pairs",
    "label_rule": "random against balanced labels alone are about 0.1 FID (1.07 and 1.19 of one"
    " model)",
    "uint8_rule": "rounding to another grey level; not measured for FID",
    "codec": "JPEG against PNG moved an FID by 2.5 (13.74 and 11.18)",
    "sample_resize": "resized samples are other images; not measured",
}


def _effect(field: str, a: Detail, b: Detail) -> str:
    if field == "uint8_rule" and "truncate" in {a, b}:
        return "truncation lowers every pixel by half a grey level; not measured for FID"
    return _EFFECTS.get(field, "its effect was not measured")


def _differing(field: str, a: Detail, b: Detail) -> Relation:
    return Relation(field, Kind.DIFFERENT, _text(field, a), _text(field, b), _effect(field, a, b))


def _shown(field: str, side: Side) -> str:
    value = side.sampling(field)
    if value is None:
        return "unknown"
    return f"{value} (declared, not verified)" if side.is_declared(field) else value


def _text(field: str, value: Detail) -> str:
    if value is None:
        return "none"
    return str(value)[:12] if field.endswith("sha256") else str(value)


def canonical_field(text: str) -> str:
    """A field's name in the protocol, from it or a shorter one: `labels`, `uint8`, `reference`.

    Raises:
        UsageError: no such field.
    """
    name = text.strip().lower()
    name = _ALIASES.get(name, name)
    if name in _FIELDS or name.startswith("details."):
        return name
    if f"details.{name}" in _EFFECTS:
        return f"details.{name}"
    raise UsageError(f"no protocol has a field {text!r}: {nearest(text, [*_FIELDS, *_ALIASES])}")


def parse_declaration(text: str) -> tuple[str, str]:
    """(field, value) of `FIELD=VALUE`, such as `labels=balanced` or `uint8=half_up`.

    Raises:
        UsageError: a field that cannot be declared, or a value that it cannot have.
    """
    name, equals, value = text.partition("=")
    field = canonical_field(name)
    if not equals or not value or field not in DECLARABLE:
        raise UsageError(
            f"--declare {text}: give labels=, uint8= or codec= and a value; measurement fields"
            " cannot be declared"
        )
    stem, colon, number = value.partition(":")
    takes_number = stem in {"blocked", "random"} and field == "label_rule"
    fits = (takes_number and number.isdecimal()) if colon else stem != "blocked"
    if stem not in _VALUES[field] or not fits:
        known = ["blocked:PER_CLASS" if v == "blocked" else v for v in _VALUES[field]]
        raise UsageError(f"--declare {text}: {name} can be {', '.join(known)}")
    return field, value


def parse_declarations(texts: Iterable[str]) -> dict[str, str]:
    """Several `FIELD=VALUE`; see `parse_declaration`.

    Raises:
        UsageError: as there, or one field twice.
    """
    found: dict[str, str] = {}
    for field, value in map(parse_declaration, texts):
        if found.setdefault(field, value) != value:
            raise UsageError(f"--declare {field}: both {found[field]} and {value}")
    return found


def declare(records: Sequence[Record], declarations: Mapping[str, str]) -> list[Record]:
    """Records with statements of the user kept in them.

    Raises:
        UsageError: a statement about a field that is known, or was declared otherwise.
    """
    for record in records:
        for field, value in declarations.items():
            known = getattr(record.protocol, field)
            if known is not None:
                raise UsageError(
                    f"--declare {field}={value}: of {record.display} it is known to be {known}"
                )
            if record.declared.get(field, value) != value:
                raise UsageError(
                    f"--declare {field}={value}: {record.display} was declared to be"
                    f" {record.declared[field]}"
                )
    return [r.model_copy(update={"declared": {**r.declared, **declarations}}) for r in records]
