"""``snnrl energy CLASSIFIER --data DIR``: operations and energy of naming an image, against the ordinary network's."""

from collections.abc import Sequence

from snnrl.agents.classifier.evaluate import operations
from snnrl.agents.classifier.library import open_classifier, open_images, open_ordinary
from snnrl.arguments import parse
from snnrl.commands.images import ImageOptions, encode
from snnrl.commands.pricing import PricingOptions, check_csv, show
from snnrl.display import Display, print_json
from snnrl.energy import break_down, read_costs
from snnrl.errors import UserError


class EnergyImagesOptions(PricingOptions, ImageOptions):
    """Count the operations of naming an image, and what they cost."""


def energy_images(name: str, arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(EnergyImagesOptions, arguments, f"energy {name}")
    check_csv(options.csv)
    table = read_costs(options.model)
    images = open_images(name, options.data, options.device)
    opened = open_classifier(
        name, images, T=options.T, percentile=options.percentile, seed=options.seed, device=options.device
    )
    if opened.classifier.T is None:
        raise UserError(f"{name} is an ordinary network: give --T to convert it")
    encode(opened.classifier, options)
    with Display(options.as_json) as display:
        display.stage("energy", 1)(0, "counting")
        layers = operations(opened.classifier, images.test)
        ordinary = open_ordinary(name, opened, options.device)
        counted = None if ordinary is None else operations(ordinary, images.test)
    broken = break_down(layers, counted, table)
    title = f"{opened.title}, {opened.source}, T={opened.classifier.T}: an image by the cost table {options.model}"
    if images.note:
        display.say(images.note)
    show(display, title, broken, options)
    if options.as_json:
        result = {
            "energy_ratio": broken.ratio,
            "model": options.model,
            "T": opened.classifier.T,
            "agent": opened.source,
            "encoding": options.encoding,
            "seed": options.seed,
            "images": layers[0].decisions,
            "note": images.note,
            **broken._asdict(),
        }
        print_json(result)
    return 0
