"""Copies between host and GPU that nobody waits for until the numbers are wanted."""

import torch

__all__ = ["Landing", "sent"]


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; what runs there later finds it, and the host goes on at once."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)  # from pageable memory it would wait for the forward before


class Landing:
    """Tensors on their way to the host, which hold their numbers once `wait` has returned."""

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor on the host; from a GPU its numbers come when all that runs there now has run."""
        if x.device.type != "cuda":
            return x.cpu()
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        host.copy_(x, non_blocking=True)
        self._events.append(torch.cuda.current_stream(x.device).record_event())
        return host

    def wait(self) -> None:
        """Until everything is here."""
        for event in self._events:
            event.synchronize()
        self._events.clear()
