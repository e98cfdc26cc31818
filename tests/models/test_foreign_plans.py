"""Options that reach a stranger's pixels through a whole plan, or are refused."""

from pathlib import Path

import pytest
import torch
from tiny_pipelines import save_dit, save_stable_diffusion

from evalsuite.errors import UsageError
from evalsuite.pipeline.conditions import TextRequest
from evalsuite.pipeline.generation import BatchSampler
from evalsuite.pipeline.plan import PlanOptions, ResolvedPlan, resolve_plan

CPU = torch.device("cpu")
TEXT_MODEL = '''
import torch
from pydantic import BaseModel

class Words:
    """An image from the length of its prompt."""
    condition, size, batch_size, needs_weights = "text", (4, 4), 2, False
    class Settings(BaseModel):
        gain: float = 0.1
    def load(self, weights, ema, device, dtype):
        pass
    def sample(self, noise, conditions, generators, settings):
        lengths = torch.tensor([len(text) for text in conditions])
        return noise * 0 + settings.gain * lengths[:, None, None, None]
'''


def hashes(resolved: ResolvedPlan) -> list[str]:
    return BatchSampler(resolved.plan, resolved.materials, CPU).pixel_hashes(0)


def test_a_negative_prompt_reaches_a_pipelines_pixels(tmp_path: Path) -> None:
    """Another negative prompt is another plan and other images."""
    folder = save_stable_diffusion(tmp_path / "sd")

    def plan(negative: str | None) -> ResolvedPlan:
        text = TextRequest(prompt=("a red cat",), negative_prompt=negative)
        settings = {"num_steps": 2, "guidance_scale": 4.0}
        return resolve_plan(
            PlanOptions(f"diffusers:{folder}", text=text, batch_size=1, sampling=settings)
        )

    none, dog = plan(None), plan("dog")
    assert none.plan.plan_id != dog.plan.plan_id
    assert hashes(none) != hashes(dog)


def test_a_preset_names_a_pipeline_beside_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path is relative to the YAML, and the preset's own settings hold."""
    save_dit(tmp_path / "models" / "dit")
    (tmp_path / "models" / "mine.yaml").write_text(
        "name: mine\ntitle: mine\ndescription: mine\nlicence: none\n"
        "family: diffusers:dit\nnum_classes: 1000\nsize: [16, 16]\nbatch_size: 2\n"
        "settings: {num_steps: 2}\nevaluation: {num_samples: 4}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = resolve_plan(PlanOptions("models/mine.yaml"))
    assert found.preset.name == "mine"
    assert found.plan.batch_size == 2
    assert (found.plan.settings or {})["num_steps"] == 2


def test_prompts_reach_a_class_and_a_negative_prompt_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class says in its settings what it has; a negative prompt would be without effect."""
    (tmp_path / "words_model.py").write_text(TEXT_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = "python:words_model:Words"
    found = resolve_plan(PlanOptions(model, text=TextRequest(prompt=("a", "bbb")), trust_code=True))
    rows = BatchSampler(found.plan, found.materials, CPU).batch(0).rows
    assert rows.labels == [0, 1]
    assert rows.images_NHWC[0].mean() < rows.images_NHWC[1].mean()
    with pytest.raises(UsageError, match=r"--negative-prompt"):
        resolve_plan(
            PlanOptions(
                model, text=TextRequest(prompt=("a",), negative_prompt="b"), trust_code=True
            )
        )
