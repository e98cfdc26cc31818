"""CLIP as GenEval's colour classifier: sentences about ten colours, crops, the nearest one.

The activation is QuickGELU, as OpenAI's weights need it. Legend: N crops, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError
from evalsuite.t2i.clip_network import ClipEmbedding
from evalsuite.t2i.colors import (
    ColorWeights,
    CropOptions,
    color_logits,
    color_sentences,
    color_weights,
    cut_out_all,
    named,
)
from evalsuite.t2i.detections import Detection


@dataclass(frozen=True)
class ClipColors(ClipEmbedding):
    """Answers `ColorClassifier`'s question.

    Attributes:
        crop: how objects are cut out.
    """

    crop: CropOptions = field(default_factory=CropOptions)
    _weights: dict[str, ColorWeights] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse a network with another activation.

        Raises:
            DataError: it is not QuickGELU, so the weights would be read wrongly.
        """
        config = self.network.config
        for part in (config.text_config, config.vision_config):
            if part.hidden_act != "quick_gelu":
                raise DataError(
                    f"this CLIP has the activation {part.hidden_act!r}: OpenAI's weights need"
                    " quick_gelu, and give other colours without it"
                )

    def colors_of(
        self, image: Images, objects: Sequence[Detection], class_name: str
    ) -> tuple[str, ...]:
        """The colour of each object."""
        if not objects:
            return ()
        crops = cut_out_all(image, objects, self.crop)
        return named(color_logits(self.embed_images(crops), self.weights_for(class_name)))

    def weights_for(self, class_name: str) -> ColorWeights:
        """Directions of the ten colours for one kind of object, computed once."""
        if class_name not in self._weights:
            sentences = [text for texts in color_sentences(class_name) for text in texts]
            embedded = self.embed_texts(sentences).view(len(color_sentences(class_name)), 3, -1)
            self._weights[class_name] = color_weights(embedded)
        return self._weights[class_name]
