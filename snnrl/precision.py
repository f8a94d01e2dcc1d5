"""In what precision networks multiply while they learn."""

import torch


def multiplies_in_bf16(device: torch.device) -> bool:
    """Say whether products in bfloat16 are fast on a device: on a CPU without instructions for them they are not."""
    if device.type != "cpu":
        return True
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(built and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which networks learn: autocast to bfloat16 with ``"bf16"``, where that is fast."""
    enabled = precision == "bf16" and multiplies_in_bf16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
