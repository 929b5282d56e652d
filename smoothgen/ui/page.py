"""The page: gradio blocks around a workbench."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from smoothgen.errors import ConfigError, SmoothgenError
from smoothgen.extras import required
from smoothgen.ui.workbench import Workbench

POINTS = 500
"""Examples in a plot of points."""

BUTTONS = ["download", "fullscreen"]
"""Of a picture: not gradio's "share", which uploads it."""


def gradio() -> Any:
    """The library, told to report nothing to anybody. Raises DependencyError without the extra `ui`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return required("gradio", "the page", "ui")


def page(workbench: Workbench, title: str) -> Any:
    """The blocks, not yet served: samples, denoising, and filling what is unknown."""
    gr = gradio()
    with gr.Blocks(title=f"smoothgen: {title}", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {title}\nNoise of the kernel: σ = {workbench.sigma:.4g} in the model's coordinates.")
        with gr.Tab("Samples"):
            _samples(gr, workbench)
        with gr.Tab("Denoise"):
            _denoise(gr, workbench)
        with gr.Tab("Inpaint"):
            (_inpaint_image if workbench.is_image else _inpaint_columns)(gr, workbench)
    return blocks


def serve(workbench: Workbench, title: str, port: int | None, browser: bool) -> None:
    """Serves the page to this machine alone, on 127.0.0.1, until Ctrl-C."""
    blocks = page(workbench, title)
    blocks.queue(default_concurrency_limit=1)
    theme = gradio().themes.Default(primary_hue="teal")
    try:
        blocks.launch(
            server_name="127.0.0.1", server_port=port, share=False, inbrowser=browser, quiet=True, theme=theme,
            footer_links=["api"], run_history=False,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"the page cannot be served: {error}; choose another --port, or none") from error


def _told(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """What a person can mend is shown on the page."""

    numbers = [parameter.annotation == "float" for parameter in inspect.signature(function).parameters.values()]

    @wraps(function)
    def wrapper(*values: Any) -> Any:
        try:
            if any(value is None for value, needed in zip(values, numbers, strict=True) if needed):
                raise ConfigError("a number is missing; fill in every field")
            return function(*values)
        except IndexError as error:
            raise gr.Error("there is no such example", print_exception=False) from error
        except SmoothgenError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapper


def _seed(gr: Any) -> Any:
    return gr.Number(0, label="seed", precision=0, minimum=0)


def _picture(gr: Any, title: str) -> Any:
    gr.Markdown(f"**{title}**")
    return gr.Image(show_label=False, interactive=False, format="png", buttons=BUTTONS)


def _samples(gr: Any, workbench: Workbench) -> None:
    most = 64 if workbench.is_image else 5000
    with gr.Row():
        count = gr.Slider(1, most, most // 4 if workbench.is_image else 1000, step=1, label="how many")
        seed = _seed(gr)
    button = gr.Button("Draw samples", variant="primary")
    with gr.Row():
        with gr.Column():
            smoothed = _picture(gr, "Smoothed samples x̃ ~ p(x̃)")
        with gr.Column():
            clean = _picture(gr, "Samples x, each inverted from its x̃")

    def draw(count: float, seed: float) -> tuple[Any, Any]:
        x, x_tilde = workbench.samples(int(count), int(seed))
        if workbench.is_image:
            return workbench.pictures(x_tilde), workbench.pictures(x)
        data = workbench.x[: len(x)]
        return workbench.plot({"x̃": x_tilde, "data": data}), workbench.plot({"samples x": x, "data": data})

    button.click(_told(gr, draw), [count, seed], [smoothed, clean], api_name="samples")


def _denoise(gr: Any, workbench: Workbench) -> None:
    gr.Markdown("The model knows the kernel's noise: 1 on the slider. Elsewhere you see how it takes other noise.")
    with gr.Row():
        index = gr.Slider(0, len(workbench.x) - 1, 0, step=1, label="test example", visible=workbench.is_image)
        noise = gr.Slider(0.0, 2.0, 1.0, step=0.05, label="noise, times that of the kernel")
        seed = _seed(gr)
    if workbench.is_image:
        output = gr.Gallery(
            show_label=False, interactive=False, columns=4, height="auto", object_fit="contain", format="png",
            buttons=BUTTONS,
        )  # fmt: skip
    else:
        output = _picture(gr, "From data to noise and back; lines join a point's places")
    values = gr.Markdown()

    def show(index: float, noise: float, seed: float) -> tuple[Any, str]:
        rows = workbench.x[int(index) : int(index) + 1] if workbench.is_image else workbench.x[:POINTS]
        rows = workbench.policy.place(rows)
        noisy = workbench.noisy(rows, float(noise), int(seed))
        sets = {"data": rows, "noisy x̃": noisy, **workbench.denoised(noisy, int(seed))}
        errors = ", ".join(f"{name}: {float((each - rows).square().mean()):.4g}" for name, each in sets.items())
        text = f"Mean squared distance to the data: {errors}"
        if workbench.is_image:
            return [(workbench.picture(each[0]), name) for name, each in sets.items()], text
        return workbench.plot(sets, joined=True), text

    inputs, outputs = [index, noise, seed], [output, values]
    for control in inputs:
        control.change(_told(gr, show), inputs, outputs, api_name=False, show_progress="hidden")
    gr.Button("Denoise", variant="primary").click(_told(gr, show), inputs, outputs, api_name="denoise")


def _inpaint_controls(
    gr: Any, workbench: Workbench, what: str, draws: tuple[int, int], particles: tuple[int, int]
) -> tuple[Any, ...]:
    """Which example, how many draws and particles (the most, and at first), and the seed."""
    with gr.Row():
        return (
            gr.Slider(0, len(workbench.x) - 1, 0, step=1, label="test example" if workbench.is_image else "test row"),
            gr.Slider(1, draws[0], draws[1], step=1, label=what),
            gr.Slider(1, particles[0], particles[1], step=1, label="particles"),
            _seed(gr),
        )


def _inpaint_image(gr: Any, workbench: Workbench) -> None:
    gr.Markdown("Paint over what should be drawn anew. The rest of the image stays as it is.")
    index, draws, particles, seed = _inpaint_controls(gr, workbench, "completions", (16, 4), (64, 8))
    with gr.Row():
        brush = gr.Brush(default_size=max(4, 3 * workbench.enlargement // 2), colors=["#ee6677"], color_mode="fixed")
        editor = gr.ImageEditor(
            workbench.picture(workbench.x[0]), label="paint here", brush=brush, eraser=False, layers=False,
            sources=(), transforms=(), image_mode="RGBA", type="numpy", elem_id="inpaint-editor",
            format="png", buttons=BUTTONS,
        )  # fmt: skip
        with gr.Column():
            result = _picture(gr, "Completions")
    button = gr.Button("Fill", variant="primary")
    index.change(lambda i: workbench.picture(workbench.x[int(i)]), [index], [editor], api_name=False)

    def fill(index: float, drawing: dict[str, Any], draws: float, particles: float, seed: float) -> Any:
        layers = drawing["layers"] if drawing else []
        painted = layers[0][..., 3] if layers else None
        unknown = workbench.unknown_of(painted)
        example = workbench.policy.place(workbench.x[int(index)])
        return workbench.pictures(workbench.completed(example, unknown, int(draws), int(particles), int(seed)))

    button.click(_told(gr, fill), [index, editor, draws, particles, seed], [result], api_name="inpaint")


def _inpaint_columns(gr: Any, workbench: Workbench) -> None:
    gr.Markdown("Choose a row and the columns to draw anew. The others are given.")
    index, draws, particles, seed = _inpaint_controls(gr, workbench, "draws", (500, 100), (256, 32))
    columns = gr.CheckboxGroup(list(workbench.names), value=[workbench.names[-1]], label="drawn anew")
    button = gr.Button("Fill", variant="primary")
    plot = _picture(gr, "Draws beside the data")
    table = gr.Dataframe(headers=list(workbench.names), label="the row, then the draws", interactive=False)

    def fill(index: float, names: list[str], draws: float, particles: float, seed: float) -> tuple[Any, Any]:
        unknown = workbench.columns_of(names)
        example = workbench.policy.place(workbench.x[int(index)])
        drawn = workbench.completed(example, unknown, int(draws), int(particles), int(seed))
        rows = [example.flatten().tolist(), *drawn.reshape(len(drawn), -1).tolist()]
        sets = {"data": workbench.x[:POINTS], "draws": drawn, "the row": example[None]}
        return workbench.plot(sets), rows

    button.click(_told(gr, fill), [index, columns, draws, particles, seed], [plot, table], api_name="inpaint")
