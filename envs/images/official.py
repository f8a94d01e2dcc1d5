"""What is known of the files of public image sets: where to get them, where they lie, their checksums."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snnrl.errors import UserError
from snnrl.files import quoted


@dataclass(frozen=True)
class Download:
    """An image set that others publish."""

    source: str
    """What to get, and where."""
    folder: str
    """That its files lie in once they are unpacked."""
    digests: Mapping[str, str]
    """Of its files, such as ``md5:...`` or ``sha1:...``."""

    @property
    def advice(self) -> str:
        """Where to get the files."""
        return f"get {self.source}"

    def find(self, folder: Path) -> Path:
        """Return ``folder`` or the official folder in it, whichever holds the files; those of gzip may be unpacked.

        Raises:
            UserError: neither holds them all.
        """
        missing = {
            place: [name for name in self.digests if not any((place / n).exists() for n in (name, unpacked(name)))]
            for place in (folder, folder / self.folder)
        }
        place = min(missing, key=lambda place: len(missing[place]))
        if missing[place]:
            raise UserError(
                f"{quoted(place)} lacks {', '.join(missing[place])}: {self.advice}, and put the files there or into "
                f"{self.folder} in it"
            )
        return place

    def note(self, place: Path) -> str | None:
        """Return what must be said beside figures if the files are not known to be the official ones, else None."""
        found = {name: _digest(place / name, digest) for name, digest in self.digests.items()}
        said = {
            "not the official files": [name for name in found if found[name] not in (None, self.digests[name])],
            "unpacked, their checksums are not known": [unpacked(name) for name in found if found[name] is None],
        }
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in said.items() if names) or None


def unpacked(name: str) -> str:
    """Return the name of a file without the ending of gzip."""
    return name.removesuffix(".gz")


def _digest(path: Path, like: str) -> str | None:
    algorithm = like.partition(":")[0]
    if not path.is_file():
        return None
    return f"{algorithm}:{hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()}"
