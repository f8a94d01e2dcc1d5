"""``snnrl eval CLASSIFIER --data DIR``: accuracy on the test images at one T, or accuracy against T."""

from collections.abc import Sequence
from typing import Any

from snnrl.agents.classifier.evaluate import evaluate
from snnrl.agents.classifier.library import open_classifier, open_images
from snnrl.agents.settings import Steps
from snnrl.arguments import parse
from snnrl.commands.images import ImageOptions, encode
from snnrl.display import Display, print_json, rates


class EvalImagesOptions(ImageOptions):
    """Name the test images and show accuracy, spike rates and energy ratio."""

    T: tuple[Steps, ...] = ()
    """Timesteps, or a list such as 1,2,3,5,100; default: the classifier's own. An ordinary one is converted,
    untrained."""


def evaluate_images(name: str, arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parse(EvalImagesOptions, arguments, f"eval {name}")
    images = open_images(name, options.data, options.device)
    results: list[dict[str, Any]] = []
    with Display(options.as_json) as display:
        report = display.stage("eval", len(options.T) or 1)
        for done, T in enumerate(options.T or (None,)):
            report(done, f"T={T}" if T else "")
            opened = open_classifier(
                name, images, T=T, percentile=options.percentile, seed=options.seed, device=options.device
            )
            encode(opened.classifier, options)
            evaluation = evaluate(opened.classifier, images.test)
            results.append({"T": opened.classifier.T, "agent": opened.source} | evaluation.as_dict())
            display.say(f"T={opened.classifier.T}: accuracy {evaluation.accuracy:.2%}")
    rows = [
        [
            result["T"] or "ann",
            f"{100 * result['accuracy']:.2f}",
            rates(result["spike_rate"]),
            f"{result['energy_ratio']:.2f}",
            result["agent"],
        ]
        for result in results
    ]
    seen = "" if options.encoding == "direct" else f", seen as {options.encoding} spikes, seed {options.seed}"
    title = f"{opened.title}, {len(images.test)} test images{seen}"
    if images.note:
        display.say(images.note)
    display.table(title, ["T", "accuracy, %", "spikes per neuron", "energy ratio", "weights of"], rows)
    if options.as_json:
        asked = {"encoding": options.encoding, "seed": options.seed, "note": images.note}
        print_json({**results[0], **asked, "results": results})
    return 0
