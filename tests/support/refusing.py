"""How a refusal is looked at: what it says, and that it came before memory was spent."""

import pytest


def refused(exception: type[Exception], action) -> str:
    """What `action` is refused with: one sentence. No U-Net and no aggregator may have been loaded for it."""
    import comfy.model_management as memory
    from comfy.sd1_clip import SD1ClipModel
    from comfy.sdxl_clip import SDXLClipModel

    with pytest.raises(exception) as refusal:
        action()
    loaded = [type(m.model.model) for m in memory.current_loaded_models if m.model is not None]
    assert all(issubclass(kind, SD1ClipModel | SDXLClipModel) for kind in loaded)
    text = str(refusal.value)
    assert text.endswith(".") and text.isprintable() and len(text) < 500
    return text
