"""Mirage's models on vLLM: a plug-in that lets a model feed its own hidden states back while it answers."""


def register() -> None:
    """The entry point of ``vllm.general_plugins``; called in every process of vLLM, and more than once in some.

    What is registered takes the place of vLLM's own, and is vLLM's own for folders without a mirage.json.
    """
    from vllm import ModelRegistry
    from vllm.reasoning import ReasoningParserManager
    from vllm.renderers.registry import RENDERER_REGISTRY

    from mirage_vllm.folder import ARCHITECTURE

    ModelRegistry.register_model(ARCHITECTURE, "mirage_vllm.model:LatentQwen2_5_VL")
    ReasoningParserManager.register_lazy_module("mirage", "mirage_vllm.reasoning", "ThoughtParser")
    if RENDERER_REGISTRY.renderers["hf"] != ("mirage_vllm.renderer", "CheckedRenderer"):
        RENDERER_REGISTRY.register("hf", "mirage_vllm.renderer", "CheckedRenderer")
