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

    def find(self, folder: Path, *names: str) -> Path:
        """Return ``folder`` or the official folder in it, whichever holds a file of one of these names.

        Raises:
            UserError: neither does.
        """
        for place in (folder, folder / self.folder):
            if any((place / name).is_file() for name in names):
                return place
        files = ", ".join(self.digests)
        raise UserError(
            f"{names[0]} is neither in {quoted(folder)} nor in its folder {self.folder}: {self.advice}, "
            f"unpack it there and give the folder that holds {files}"
        )

    def note(self, folder: Path) -> str | None:
        """Return what must be said beside figures if the files differ from the official ones, else None."""
        here = self.find(folder, *self.digests)
        differing = [name for name, digest in self.digests.items() if _digest(here / name, digest) != digest]
        return f"not the official files: {', '.join(differing)}" if differing else None


def _digest(path: Path, like: str) -> str | None:
    algorithm = like.partition(":")[0]
    if not path.is_file():
        return None
    return f"{algorithm}:{hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()}"
