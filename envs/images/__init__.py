"""Image sets from the user's folder, and resumable batches of them."""

from snnrl.envs.images.batches import Batch, Normalization, TrainingBatches, in_order
from snnrl.envs.images.images import Images
from snnrl.envs.images.sets import LAYOUTS, ImageSet, hold_out, read_images

__all__ = [
    "LAYOUTS",
    "Batch",
    "ImageSet",
    "Images",
    "Normalization",
    "TrainingBatches",
    "hold_out",
    "in_order",
    "read_images",
]
