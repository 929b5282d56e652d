"""How a part prints: what it is, its event, and the parameters of each of its parts, on one screen."""

from __future__ import annotations

from torch import nn

from smoothgen.event import EventSpec


class ReadableModule(nn.Module):
    """A module that prints as a summary: the parts below it in turn, and any other module below it as one line.

    Layers print as torch prints them: ask for them by name, `print(model.density.conditioner)`.
    """

    def _facts(self) -> list[str]:
        """What the first line says between the name of the class and the number of parameters."""
        return []

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}({', '.join([*self._facts(), *parameters_text(self)])})"]
        for name, child in self.named_children():
            if isinstance(child, ReadableModule):
                first, *rest = repr(child).splitlines()
            elif parameters_text(child):
                first, rest = f"{type(child).__name__}({', '.join(parameters_text(child))})", []
            else:
                continue
            lines += [f"  {name}: {first}", *(f"  {line}" for line in rest)]
        return "\n".join(lines)


def parameters_text(module: nn.Module) -> list[str]:
    """["1,234 parameters"], with how many are trained where not all are; [] without any."""
    total = sum(parameter.numel() for parameter in module.parameters())
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    if not total:
        return []
    text = f"{total:,} parameter" + ("s" if total > 1 else "")
    return [text if trained == total else f"{text}, {trained:,} trained"]


def event_text(event: EventSpec) -> str:
    """Such as "event (1, 8, 8), 17 levels from -1 to 1"."""
    text = f"event {event.shape}"
    if event.levels is not None:
        low, high = event.ends
        return f"{text}, {event.levels} levels from {low:g} to {high:g}"
    return text
