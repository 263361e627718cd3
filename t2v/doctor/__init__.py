"""What is the matter: every model file looked at, what is missing, what would be used instead, and what to do.

    examine ─▶ Report ─▶ text, one page that can be pasted into an issue: home and other folders are shortened in it

    files.py     what one file is              environment.py   versions, device, encoders, memory, disk
    models.py    what a folder makes of them
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from t2v.doctor.environment import surroundings
from t2v.doctor.files import NAMES, Entry, Heed
from t2v.doctor.models import file_entries, files_in, part_entries
from t2v.errors import RequestError
from t2v.hosts import Host
from t2v.models import catalog
from t2v.models.contents import subfolders
from t2v.models.unet import UNet3D, UNetConfig
from t2v.needs import need_of_model, need_of_published
from t2v.request import VideoRequest
from t2v.verdict import sentence

__all__ = ["Entry", "Report", "Section", "examine", "shown"]

SIZES = ((256, 256, 16), (256, 256, 24), (576, 320, 24), (1024, 576, 24))  # width, height, frames
COLLECTIONS = ("ModelScope", "text2video")  # folders of nothing but our models
MARKS = {(False, False): "ok", (True, False): "..", (True, True): "!!"}  # of an entry: a problem?, a serious one?


@dataclass(frozen=True)
class Section:
    """Entries that belong together."""

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Report:
    """What was found."""

    sections: tuple[Section, ...]

    @property
    def well(self) -> bool:
        """Whether everything will work."""
        return not any(entry.serious for section in self.sections for entry in section.entries)

    @property
    def text(self) -> str:
        """The report on a page."""
        verdict = "all is well." if self.well else "something is wrong, see the lines with !!"
        return "\n".join([f"Text2Video doctor: {verdict}", *(line for part in self.sections for line in lines(part))])


def lines(section: Section) -> Iterator[str]:
    """A section as text."""
    yield ""
    yield section.title
    width = min(max((len(entry.name) for entry in section.entries), default=0), 44)
    for entry in section.entries:
        sentences = [entry.problem and f"{entry.problem}.", entry.remedy and f"{entry.remedy}."]
        said = "; ".join(filter(None, [entry.what, " ".join(filter(None, sentences))]))
        line = f"  {MARKS[bool(entry.problem), entry.serious]} {entry.name:{width}}  {said}"
        yield "".join(char if char.isprintable() else "?" for char in line)  # names of files may be anything


def examine(path: Path | None, host: Host, heed: Heed | None = None) -> Report:
    """Looks at the model at `path`, or at all models in that folder, or of the `host`; and at what we run on.

    With `heed`, weight files are hashed, which reads them whole, and it is told how that goes. RequestError where
    there is nothing at `path`.
    """
    subjects = list(dict.fromkeys(models_of(host) if path is None else models_at(path)))
    found = {subject: model(subject, host, heed) for subject in subjects}
    well = [subject for subject, section in found.items() if not any(entry.problem for entry in section.entries)]
    brief = well if path is None else []
    full = [subject for subject in well if path or full_size(subject, host)]
    sections = [
        Section("Environment", tuple(surroundings(host))),
        Section("Models that are well", tuple(summary(subject, found[subject], host) for subject in brief)),
        Section("No model", tuple(advice(subjects, host, path))),
        *(section for subject, section in found.items() if subject not in brief),
        plan(next(iter(full), None), host)]
    folders = [*(host.model_folders if path is None else []), *(subject.parent for subject in subjects)]
    return private(Report(tuple(section for section in sections if section.entries)), folders)


def models_of(host: Host) -> Iterator[Path]:
    """Every model of the host, and what lies between them without being one."""
    yield from catalog.find_models(host.model_folders).values()
    for parent in host.model_folders:
        if parent.name in COLLECTIONS:
            yield from strangers(parent)


def models_at(path: Path) -> list[Path]:
    """The models in a folder, or what lies there without being one, or the folder itself."""
    if not os.path.exists(path):
        raise RequestError("folder", f"there is nothing at {path}")
    if path.is_file() or catalog.family(path):
        return [path]
    return [*catalog.models_in(path), *strangers(path)] or [path]


def strangers(parent: Path) -> Iterator[Path]:
    """Folders with files in them that make no model, not even one folder further down."""
    for folder in subfolders(parent):
        if files_in(folder) and not list(catalog.models_in(folder)):
            yield folder


def model(path: Path, host: Host, heed: Heed | None) -> Section:
    """Everything about one model."""
    entries = file_entries(path, heed)
    if catalog.family(path) is None:
        entries.append(Entry("model", "", "holds no text-to-video model", NO_MODEL, serious=True))
    else:
        entries += part_entries(path, host.model_folders)
    return Section(f"{path.name}, in {shown(path.parent)}", tuple(entries))


def full_size(path: Path, host: Host) -> bool:
    """Whether a model that is well is one of those that films are made with, and no demo or test."""
    return catalog.configured(path, host.model_folders).unet.dim == UNetConfig.dim


def summary(path: Path, found: Section, host: Host) -> Entry:
    """One line about a model that is well."""
    said = catalog.describe(path, host.model_folders)
    unet = next((entry.what for entry in found.entries if entry.what.startswith(NAMES[UNet3D])), "")
    return Entry(path.name, "; ".join(filter(None, [str(said["kind"]), unet, *said["notes"]])))


def advice(subjects: list[Path], host: Host, path: Path | None) -> Iterator[Entry]:
    """What to do where there is no model yet."""
    if path is None and subjects == [catalog.DEMO]:
        folder = shown(next(iter(host.model_folders), Path("models")))
        yield Entry("models", "", f"there is none but the demo; they belong into {folder}", NO_MODEL)


def plan(path: Path | None, host: Host) -> Section:
    """What the common sizes need on this device with a model, or with the published one."""
    entries = []
    for width, height, frames in SIZES:
        request = VideoRequest(prompt="", width=width, height=height, frames=frames)
        found = need_of_model(path, request, host) if path else need_of_published(request, host)
        if found is not None:
            entries.append(Entry(f"{width}x{height}, {frames} frames", sentence(found, host)))
    return Section(f"Memory, with {path.name if path else 'ModelScope 1.7B in fp16'}", tuple(entries))


# ---- for other people's eyes ----


def shown(path: Path) -> str:
    """A folder as others may see it: below the home folder, or by its last two names."""
    path, home = path.absolute(), Path.home()
    if home != home.parent and path.is_relative_to(home):
        return f"~/{path.relative_to(home).as_posix()}"
    return ".../" + "/".join(path.parts[1:][-2:]) if len(path.parts) > 3 else path.as_posix()


def private(report: Report, folders: Iterable[Path]) -> Report:
    """`report` with each of `folders`, and the home folder, as `shown`, wherever a sentence has it."""
    spelt = {str(folder.absolute()): shown(folder) for folder in folders} | {str(Path.home()): "~"}
    longest = sorted((text for text in spelt if len(text) > 1), key=len, reverse=True)

    def cleaned(text: str) -> str:
        for secret in longest:
            text = text.replace(secret, spelt[secret])
        return text

    return Report(tuple(Section(cleaned(section.title), tuple(
        Entry(cleaned(entry.name), cleaned(entry.what), cleaned(entry.problem), cleaned(entry.remedy), entry.serious)
        for entry in section.entries)) for section in report.sections))


NO_MODEL = "Have one fetched by 't2v download', or put its files into a folder of their own there"
