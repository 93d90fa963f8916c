"""TEST-ONLY custom node package: a node that keeps an ensemble from telling the browser of its routing."""


class QuietRouting:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "routing": ("AFA_ROUTING",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "execute"
    CATEGORY = "test"

    def execute(self, model, routing):
        routing.on_step = None
        return (model,)


NODE_CLASS_MAPPINGS = {"QuietRouting": QuietRouting}
