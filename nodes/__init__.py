"""The nodes: one file a theme, each node a thin caller of afa_core."""

from comfy_api.latest import ComfyExtension, io

from ..afa_core.host.files import register_folder
from ..afa_core.host.scoring import files as scorers
from .auto_merge import AFAAutoMerge
from .compare import AFACompare
from .compare_grid import AFACompareClock, AFACompareGrid
from .conditioning import AFABlendConditioning
from .distil import AFADistill
from .ensemble import AFAEnsembleCLIP, AFAEnsembleModel, LoadAFAAggregator, LoadAFAEnsemble
from .fusion import AFATrainingFreeFusion
from .merging import AFAMergeModels
from .probe import AFAProbe
from .routes import register_routes
from .routing import AFARoutingMaps
from .scoring import AFAScoreImages
from .trainer import AFATrainer


class AFAExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadAFAAggregator,
            AFAEnsembleModel,
            AFAEnsembleCLIP,
            AFABlendConditioning,
            LoadAFAEnsemble,
            AFATrainingFreeFusion,
            AFATrainer,
            AFADistill,
            AFAProbe,
            AFARoutingMaps,
            AFAMergeModels,
            AFAAutoMerge,
            AFAScoreImages,
            AFACompare,
            AFACompareClock,
            AFACompareGrid,
        ]


async def comfy_entrypoint() -> AFAExtension:
    register_folder()
    register_folder(scorers.FOLDER, scorers.ENDINGS)
    register_routes()
    return AFAExtension()
