"""Which program this is, told by what it has and never by its name: branches of one differ more than two others."""

import sys
from importlib import import_module
from importlib.util import find_spec

from t2v.hosts import Host
from t2v.hosts.standalone import Standalone


def find_host() -> Host:
    """The host around us; `Standalone` where there is none."""
    if "modules.shared" not in sys.modules:  # a web UI has long imported it when extensions load
        return Standalone()
    if find_spec("modules.modeldata") and not find_spec("modules.launch_utils"):
        from t2v.hosts.sdnext import SdnextHost

        return SdnextHost()
    for manager in ("backend.memory_management", "ldm_patched.modules.model_management"):
        if there(manager):
            from t2v.hosts.forge import ManagedHost

            return ManagedHost(import_module(manager))
    from t2v.hosts.webui import WebuiHost

    return WebuiHost()


def there(module: str) -> bool:
    """Whether `module` can be imported; its parents are looked for first, since asking imports them."""
    parts = module.split(".")
    return all(find_spec(".".join(parts[:end])) for end in range(1, len(parts) + 1))
