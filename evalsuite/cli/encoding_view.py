"""What a person sees of the text encoder, which works before the first image."""

import time

from evalsuite.artifacts.run_directory import CONDITIONS
from evalsuite.artifacts.storage import Place
from evalsuite.cli.output import notice
from evalsuite.config import Plan
from evalsuite.pipeline.conditions import features_on_disk
from evalsuite.pipeline.materials import Materials

LINE_EVERY_S = 10.0


class EncodingView:
    """Says what is encoded, and from time to time how far that is."""

    def __init__(self, root: Place, plan: Plan, materials: Materials) -> None:
        has_encoder = plan.text is not None and plan.text.encoder_sha256 is not None
        prompts = materials.prompts if has_encoder else None
        self._plan, self._cache = plan, root / CONDITIONS
        self._wanted = len({*prompts, plan.text.negative_prompt}) if prompts and plan.text else 0
        self._last_line = time.monotonic()
        if prompts and features_on_disk(plan, self._cache) < self._wanted:
            different = len(set(prompts))
            notice(
                f"{len(prompts)} prompts, {different} of them different: each is encoded"
                " once, before the first image"
            )

    def update(self) -> None:
        """Say it from time to time, while workers load."""
        now = time.monotonic()
        if not self._wanted or now - self._last_line < LINE_EVERY_S:
            return
        self._last_line = now
        done = features_on_disk(self._plan, self._cache)
        if 0 < done < self._wanted:
            notice(f"text encoder: {done} of {self._wanted} prompts")
