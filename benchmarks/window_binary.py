"""Accuracy of trained networks of windows whose maps become 0 or 1 above a half, and by chance: the same weights.

Writes ``results/images/window_binary.csv``, a row for each classifier; chance is drawn three times.
"""

import argparse
from pathlib import Path
from statistics import fmean

import torch

from snnrl.agents.classifier.agent import Classifier
from snnrl.agents.classifier.evaluate import predictions
from snnrl.agents.classifier.library import open_images
from snnrl.envs.images import Images
from snnrl.files import write_atomically
from snnrl.networks.window import Block
from snnrl.tables import to_csv

TABLE = Path(__file__).parent / "results" / "images" / "window_binary.csv"
DRAWS = 3


def share_named(classifier: Classifier, images: Images) -> float:
    """Return the share of images that are named rightly."""
    return float((predictions(classifier, images) == images.labels).mean())


def main() -> None:
    """Measure every classifier and print its row."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("classifiers", nargs="+", type=Path, help="files such as RUN/T1.zip")
    options.add_argument("--data", type=Path, required=True, help="folder of the images")
    given = options.parse_args()
    columns, rows = ["run", "half", "bernoulli", "lowest", "highest"], []
    for path in given.classifiers:
        images = open_images(str(path), given.data, "auto").test
        classifier = Classifier.load(path)
        half = share_named(classifier, images)
        for block in classifier.network.modules():
            if isinstance(block, Block):
                block.binary = "bernoulli"
        drawn = []
        for seed in range(DRAWS):
            torch.manual_seed(seed)
            drawn.append(share_named(classifier, images))
        shares = (half, fmean(drawn), min(drawn), max(drawn))
        rows.append([path.parent.name, *(f"{100 * share:.2f}" for share in shares)])
        print(*rows[-1], flush=True)
    write_atomically(TABLE, to_csv(columns, rows).encode())


if __name__ == "__main__":
    main()
