"""Images of scenes: one frame that CogVideoX renders from the text of a problem, and its LoRA fine-tuning."""

from mirage_core.synthesis.scenes.draw import draw_scenes
from mirage_core.synthesis.scenes.pairs import ScenePair, read_pairs
from mirage_core.synthesis.scenes.request import SceneRequest, scene_requests

__all__ = ["ScenePair", "SceneRequest", "draw_scenes", "read_pairs", "scene_requests"]
