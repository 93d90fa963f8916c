"""Changing the experts' texts after they were encoded."""

from __future__ import annotations

from comfy_api.latest import io

from ..afa_core.host.text.carried_texts import every_text
from .sockets import schema


class AFABlendConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFABlendConditioning",
            display_name="AFA Blend Conditioning",
            description="Conditioning Concat and Conditioning Average for the prompts of an ensemble: joins or mixes every expert's own text.",
            search_aliases=["conditioning concat", "conditioning average", "prompt blending"],
            inputs=[
                io.Conditioning.Input("conditioning_to", tooltip="The prompt that is added to."),
                io.Conditioning.Input("conditioning_from", tooltip="The prompt that is added; only its first part is used."),
                io.Combo.Input(
                    "method", options=["concat", "average"],
                    tooltip="concat: one prompt after the other. average: a mixture of the two.",
                ),
                io.Float.Input(
                    "conditioning_to_strength", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="For average: 1 is conditioning_to alone, 0 is conditioning_from alone.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )  # fmt: skip

    @classmethod
    def execute(cls, conditioning_to, conditioning_from, method, conditioning_to_strength) -> io.NodeOutput:
        # The host's, not this package.
        from nodes import ConditioningAverage, ConditioningConcat  # pyright: ignore[reportAttributeAccessIssue]

        def blend(one, other):
            if method == "concat":
                return ConditioningConcat().concat(one, other)[0]
            return ConditioningAverage().addWeighted(one, other, conditioning_to_strength)[0]

        return io.NodeOutput(every_text(blend, conditioning_to, conditioning_from))
