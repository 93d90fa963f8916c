"""One package under two names.

ComfyUI imports the pack under a name made of its path, so the pack's `from .afa_core import x` would create a second
copy of every module that a test imports as `afa_core.x`: two classes of each name, and isinstance fails between them.
The alias makes the import system answer the long name with the module of the short one.
"""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec


class _Alias(MetaPathFinder, Loader):
    def __init__(self, alias, real):
        self.alias, self.real = alias, real

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.alias or fullname.startswith(self.alias + "."):
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec):
        module = importlib.import_module(self.real + spec.name[len(self.alias) :])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        # The import system has just put the alias's spec on the real module, which has been executed already.
        module.__spec__ = module.__spec__.loader_state


def install_alias(alias: str, real: str) -> None:
    """From now on `import <alias>.x` gives the module `<real>.x`."""
    sys.meta_path.insert(0, _Alias(alias, real))
