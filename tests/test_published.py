"""Published figures: the table, its reader, and the presets that repeat their own rows."""

from pathlib import Path

import pytest

from evalsuite.config import (
    FIGURES,
    Claim,
    ModelPreset,
    claims_of,
    data_root,
    load_claims,
    load_spec,
    names_of,
)
from evalsuite.errors import ConfigError, EvalsuiteError, UsageError

SHIPPED = data_root() / "configs" / "leaderboard" / "published.csv"
FIRST = {
    "jit-b-16-256": 3.66,
    "jit-l-16-256": 2.36,
    "jit-h-16-256": 1.86,
    "pixnerd-l-256": 2.64,
    "pixnerd-xl-256": 1.93,
    "pixnerd-xl-512": 2.42,
    "pixelgen-xl-256": 1.83,
    "pixelgen-xl-256-80ep": 5.11,
    "pixeldit-xl-256-ep80": 2.36,
    "pixeldit-xl-256-ep160": 1.97,
    "pixeldit-xl-256-ep320": 1.61,
    "pixeldit-xl-512": 1.81,
}
"""The FID of each model's first claim."""
CHECKPOINTS = {
    "jit-b-16-256": {3.66: None, 4.37: "other"},
    "jit-l-16-256": {2.36: None, 2.79: "other"},
    "jit-h-16-256": {1.86: None, 2.29: "other", 1.90: "released"},
    "pixnerd-l-256": {2.64: "unreleased", 37.49: "unreleased"},
    "pixnerd-xl-256": {
        1.93: "released",
        1.95: None,  # the same number of epochs; whether the same file is not stated
        15.61: None,
        2.15: "other",  # of 160 epochs
        2.16: "other",
        2.29: "other",
    },
    "pixnerd-xl-512": {2.42: "released", 2.84: "other", 3.41: "other"},
    "pixelgen-xl-256": {1.83: "released"},
    "pixelgen-xl-256-80ep": {5.11: "released"},
    "pixeldit-xl-256-ep80": {2.36: "released"},
    "pixeldit-xl-256-ep160": {1.97: "released"},
    "pixeldit-xl-256-ep320": {1.61: "released", 11.857: "released"},
    "pixeldit-xl-512": {1.81: "released", 1.78: "released"},
}
"""Whether a figure is of the released weights, by the fact sheets."""


def figures(claim: Claim) -> dict[str, float | None]:
    return {name: claim.figure(name) for name in FIGURES}


def test_every_row_has_a_source_and_a_figure() -> None:
    claims = load_claims()
    assert len(claims) == 155
    for claim in claims:
        assert claim.source
        assert any(value is not None for value in figures(claim).values())


def test_contradictions_are_kept() -> None:
    fids = {claim.fid for claim in load_claims() if claim.preset == "pixeldit-xl-512"}
    assert fids == {1.81, 1.78}
    quoted = [c for c in load_claims() if c.preset == "pixnerd-xl-256" and "320ep" in c.model]
    assert [c.fid for c in quoted] == [1.93, 1.95, 15.61]


@pytest.mark.parametrize("name", names_of(ModelPreset))
def test_a_preset_and_the_table_say_the_same(name: str) -> None:
    """Each figure of a preset is a row of the table, and each row of the model is in its preset."""
    preset = load_spec(ModelPreset, name)
    rows = [claim for claim in load_claims() if claim.preset == name]
    found = claims_of(preset, load_claims())
    assert all(claim in rows for claim in found)
    assert {c.model for c in found} == {c.model for c in rows}
    stated = [r for r in preset.published if r.fid is not None]
    assert [c.protocol_of("fid") for c in found] == [r.protocol for r in stated]
    assert {c.resolution for c in found} <= {preset.size[0]}


def test_the_first_claim_is_the_nearest_to_the_released_weights() -> None:
    first = {
        name: found[0].fid
        for name in names_of(ModelPreset)
        if (found := claims_of(load_spec(ModelPreset, name), load_claims()))
    }
    assert first == FIRST
    assert all(CHECKPOINTS[name][fid] != "other" for name, fid in first.items())


def test_every_claim_says_of_which_checkpoint_it_is() -> None:
    found: dict[str, dict[float | None, str | None]] = {}
    for claim in load_claims():
        if claim.preset is None:
            assert claim.checkpoint is None
        else:
            found.setdefault(claim.preset, {})[claim.fid] = claim.checkpoint
    assert found == CHECKPOINTS


def test_protocols_and_labels_are_read_from_the_claims_words() -> None:
    by_words = {claim.protocol: claim for claim in load_claims()}
    adm = by_words["adm-tf (50k; VIRTUAL ref)"]
    assert (adm.protocol_of("fid"), adm.label_rule) == ("adm", None)
    assert by_words["adm-tf (50k; VIRTUAL ref); random labels"].label_rule == "random"
    jit = next(c for words, c in by_words.items() if words.startswith("jit"))
    assert (jit.protocol_of("fid"), jit.label_rule) == ("jit", "balanced")
    assert by_words["as quoted"].protocol_of("fid") is None
    mixed = by_words["adm-tf (50k; VIRTUAL ref); IS by torch-fidelity"]
    assert (mixed.protocol_of("fid"), mixed.protocol_of("inception_score")) == ("adm", None)
    swept = next(c for c in load_claims() if c.guidance == "swept")
    assert swept.guidance_scale is None


def edited(tmp_path: Path, old: str, new: str, count: int = 1) -> Path:
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "claims.csv"
    path.write_text(text.replace(old, new, count), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",fid,", ",FID,", "has no column 'fid'"),
        (",source\n", ",source,colour\n", "unknown column 'colour'"),
        (",2.64,", ",two,", ":2: fid: "),
        (",unreleased,", ",mine,", ":2: checkpoint: "),
        (",0.78,0.6,", ",0.78,6,", ":2: recall: "),
        (",PixNerd arXiv 2507.23268 Table 2\n", ",\n", ":2: source: "),
        (",PixNerd arXiv 2507.23268 Table 2\n", ",here,there\n", "more cells than the heading"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_claims(edited(tmp_path, old, new))
    assert said in str(caught.value)
    assert "claims.csv" in str(caught.value)


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    heading = SHIPPED.read_text(encoding="utf-8").splitlines(keepends=True)[0]
    (tmp_path / "empty.csv").write_text(heading, encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no claims"):
        load_claims(tmp_path / "empty.csv")
    with pytest.raises(UsageError, match="does not exist"):
        load_claims(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvalsuiteError, match="not UTF-8"):
        load_claims(tmp_path / "binary.csv")
