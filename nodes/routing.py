"""Seeing what an ensemble decided."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..afa_core.routing.panels import routing_panels
from ..afa_core.routing.record import RoutingRecord
from .kept import workflow_id
from .live import keep_routing, running_workflow
from .sockets import RoutingType, schema


class AFARoutingMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AFARoutingMaps",
            display_name="AFA Routing Maps",
            description="Shows the weights of the experts: an attention map for each, and mean weights by step and by block.",
            search_aliases=["attention maps", "expert heat map", "routing"],
            inputs=[
                RoutingType.Input("routing", tooltip="The routing output of AFA Ensemble Model or Load AFA Ensemble."),
                io.Latent.Input(
                    "samples", tooltip="The sampler's latent, so that the maps are drawn after it has run."
                ),
                io.Image.Input("image", optional=True, tooltip="The decoded picture, to lay the maps over it."),
            ],
            outputs=[
                io.Image.Output(display_name="panels"),
                io.String.Output(display_name="shares"),
                io.Latent.Output(display_name="samples"),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> str:
        return running_workflow()  # a copy of a workflow has a result of its own

    @classmethod
    def execute(cls, routing: RoutingRecord, samples: dict, image=None) -> io.NodeOutput:
        run = routing.run_of(samples["samples"])
        if run is None or not run.evaluations:
            raise ValueError(
                "There is no routing to show: connect samples to the sampler that uses this ensemble, and let the "
                "ensemble's start and end percent cover some of its steps."
            )
        picture = None if image is None else image[0]
        kept = keep_routing(run, picture, workflow_id(cls.hidden.extra_pnginfo), cls.hidden.unique_id)
        return io.NodeOutput(
            routing_panels(run, picture), json.dumps(run.summary()), samples, ui={"afa_routing": [kept]}
        )
