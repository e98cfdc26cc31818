"""The typed configuration tree: presets of models, extractors, references and self-tests; plans.

They are read from YAML. Every class is frozen and refuses unknown keys. Defaults of a model live in
its preset and nowhere else; a `Plan` is what they become once an invocation's options are applied.
"""

from evalsuite.config.base import (
    NUMERICS_VERSION,
    RANDOM_WEIGHTS,
    SOLVERS_WITH,
    DtypeName,
    Frozen,
    IntervalEnds,
    Scalar,
    Sha256,
    Size,
    SolverName,
    StepName,
    Uint8Rule,
    canonical_json,
)
from evalsuite.config.benchmarks import BenchmarkFile, BenchmarkSpec, PublishedScores
from evalsuite.config.claims import FIGURES, Claim, claims_of, load_claims
from evalsuite.config.foreign_json import parse_json
from evalsuite.config.jobs import JobSpec, is_secret
from evalsuite.config.loading import (
    data_root,
    explain,
    given_as,
    load_spec,
    names_of,
    parse_spec,
    read_yaml,
    rooted,
)
from evalsuite.config.other_solver import of_other_solver
from evalsuite.config.plan import (
    GuideModel,
    Plan,
    PromptList,
    TextConditions,
    TextEncoderSpec,
)
from evalsuite.config.presets import (
    EvaluationDefaults,
    ExtractorSpec,
    FilePlace,
    KnownRate,
    ModelPreset,
    ModelWeights,
    PublishedResult,
    TextPreset,
    WeightsPlace,
    WeightsSource,
)
from evalsuite.config.protocols import (
    NeighbourRule,
    ProtocolSpec,
    SplitRule,
)
from evalsuite.config.references import (
    ReferenceFeatures,
    ReferenceImages,
    ReferenceSpec,
)
from evalsuite.config.sampling import (
    LabelRule,
    SamplingSettings,
)
from evalsuite.config.selftests import (
    ExpectedValue,
    ExpectedValues,
    SelftestFiles,
    SelftestSpec,
)
from evalsuite.config.sweeps import FEWEST_SAMPLES, AxisValue, SweepSpec, check_rungs

__all__ = [
    "FEWEST_SAMPLES",
    "FIGURES",
    "NUMERICS_VERSION",
    "RANDOM_WEIGHTS",
    "SOLVERS_WITH",
    "AxisValue",
    "BenchmarkFile",
    "BenchmarkSpec",
    "Claim",
    "DtypeName",
    "EvaluationDefaults",
    "ExpectedValue",
    "ExpectedValues",
    "ExtractorSpec",
    "FilePlace",
    "Frozen",
    "GuideModel",
    "IntervalEnds",
    "JobSpec",
    "KnownRate",
    "LabelRule",
    "ModelPreset",
    "ModelWeights",
    "NeighbourRule",
    "Plan",
    "PromptList",
    "ProtocolSpec",
    "PublishedResult",
    "PublishedScores",
    "ReferenceFeatures",
    "ReferenceImages",
    "ReferenceSpec",
    "SamplingSettings",
    "Scalar",
    "SelftestFiles",
    "SelftestSpec",
    "Sha256",
    "Size",
    "SolverName",
    "SplitRule",
    "StepName",
    "SweepSpec",
    "TextConditions",
    "TextEncoderSpec",
    "TextPreset",
    "Uint8Rule",
    "WeightsPlace",
    "WeightsSource",
    "canonical_json",
    "check_rungs",
    "claims_of",
    "data_root",
    "explain",
    "given_as",
    "is_secret",
    "load_claims",
    "load_spec",
    "names_of",
    "of_other_solver",
    "parse_json",
    "parse_spec",
    "read_yaml",
    "rooted",
]
