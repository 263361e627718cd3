"""The model that was used last, so that the next film begins at once."""

from pathlib import Path

from t2v.hosts import Host
from t2v.layout import layout_of
from t2v.models import Model, catalog
from t2v.models.contents import contents
from t2v.needs import matrices
from t2v.placement import lift, lower


class Shelf:
    """Holds one model: opened, and if asked for on the device. For one thread at a time."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.model: Model | None = None

    def get(self, name: str, folders: list[Path]) -> Model:
        """The model of a name, opened anew only if it is another, or its files have changed. ModelError as ever."""
        path = catalog.find_model(name, folders)
        files = [*contents(path).files, *sorted(path.glob("*.json"))]
        key = (name, path, *((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))
        if self.model is None or self.key != key:
            self.clear()
            self.model, self.key = catalog.load_model(path, name, folders), key
        return self.model

    def lift(self, host: Host) -> None:
        """The weights of all networks onto the device, where `placed` then finds them; or of none, and an error."""
        assert self.model is not None
        try:
            lift(self.model.text, host.device, host.dtype)
            lift(self.model.unet, host.device, host.dtype, layout_of(self.model.unet, matrices(host)))
            lift(self.model.vae, host.device, host.vae_dtype)
        except BaseException:
            self.lower()
            raise

    def lower(self) -> None:
        """Off the device again."""
        if self.model is not None:
            lower(self.model.text, self.model.unet, self.model.vae)

    def clear(self) -> None:
        """No model, no memory."""
        self.lower()
        self.model, self.key = None, ()
