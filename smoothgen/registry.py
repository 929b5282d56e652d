"""From entry points to {tag: config class}; a broken plugin is listed, never fatal."""

from __future__ import annotations

import importlib.metadata
import traceback
import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import pluggy
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from smoothgen import hooks
from smoothgen.component import ComponentConfig, nearest
from smoothgen.errors import ConfigError, PluginError, SmoothgenWarning

INTERFACES = ("density", "kernel", "inverter", "data", "features", "logger")
INTERFACE_KEY = "x-smoothgen-interface"


class PluginWarning(SmoothgenWarning):
    """A plugin that could not be loaded."""


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin: `name` is distribution:entry-point."""

    name: str
    module: str
    version: str
    components: tuple[type[ComponentConfig], ...] = ()


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was refused, and why."""

    name: str
    module: str
    error: str
    traceback: str


@dataclass
class Registry:
    """Every registered part, by interface and tag."""

    plugins: list[Plugin] = field(default_factory=list)
    broken: list[BrokenPlugin] = field(default_factory=list)
    components: dict[str, dict[str, type[ComponentConfig]]] = field(
        default_factory=lambda: {interface: {} for interface in INTERFACES}
    )
    _manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("smoothgen"))

    def __post_init__(self) -> None:
        self._manager.add_hookspecs(hooks)

    def add(self, plugin: object, name: str, version: str = "") -> Plugin:
        """Registers the components of one plugin, all or none.

        Raises PluginError: a misspelt hook, no hook at all, something that is not a component's
        configuration, or a tag that is taken (both modules are named).
        """
        manager = self._manager
        try:
            manager.register(plugin, name=name)
            manager.check_pending()
            implementations = [
                implementation
                for implementation in manager.hook.smoothgen_components.get_hookimpls()
                if implementation.plugin is plugin
            ]
            if not implementations:
                raise PluginError(
                    f"{name} implements no hook; mark a function smoothgen_components with smoothgen.hookimpl"
                )
            found = tuple(cls for item in implementations for cls in cast(Any, item.function)())
            for index, cls in enumerate(found):
                self._check(cls, name, found[:index])
        except Exception:
            if manager.has_plugin(name):
                manager.unregister(name=name)
            raise
        for cls in found:
            self.components[cls.interface][cls.tag()] = cls
        loaded = Plugin(name, getattr(plugin, "__name__", type(plugin).__name__), version, found)
        self.plugins.append(loaded)
        return loaded

    def _check(self, cls: object, name: str, siblings: tuple[Any, ...]) -> None:
        if not (isinstance(cls, type) and issubclass(cls, ComponentConfig) and cls.interface in INTERFACES):
            raise PluginError(
                f"{name}: smoothgen_components returned {cls!r}; expected classes derived from "
                "DensityModelConfig, NoiseKernelConfig, InverterConfig, DataSourceConfig, FeatureNetworkConfig or "
                "LoggerConfig"
            )
        if not isinstance(cls.model_fields["type"].default, str):
            raise PluginError(f'{name}: {cls.__name__} needs a tag: type: Literal["tag"] = "tag"')
        tag = cls.tag()
        taken = self.components[cls.interface].get(tag) or next(
            (other for other in siblings if (other.interface, other.tag()) == (cls.interface, tag)), None
        )
        if taken is not None:
            raise PluginError(
                f'{name}: the {cls.interface} type "{tag}" of {cls.__module__} is already registered by '
                f"{taken.__module__}; rename one of them"
            )

    def load_entry_points(self) -> None:
        """Loads every entry point of the group: smoothgen's own first, then by distribution and name."""
        for entry_point in sorted(
            importlib.metadata.entry_points(group=hooks.ENTRY_POINT_GROUP),
            key=lambda item: (_distribution(item) != "smoothgen", _distribution(item), item.name),
        ):
            name = f"{_distribution(entry_point)}:{entry_point.name}"
            if name in {known.name for known in self.plugins} | {known.name for known in self.broken}:
                continue  # the same distribution listed twice on sys.path
            try:
                version = str(entry_point.dist.version) if entry_point.dist else ""
                self.add(entry_point.load(), name, version)
            except Exception as error:  # a stranger's code: whatever it raises is theirs, and the rest must work
                message = f"{type(error).__name__}: {error}"
                self.broken.append(BrokenPlugin(name, entry_point.value, message, traceback.format_exc()))
                warnings.warn(
                    f"plugin {name} was not loaded: {message} (smoothgen plugins shows the traceback)",
                    PluginWarning,
                    stacklevel=2,
                )

    def find(self, interface: str, tag: object) -> type[ComponentConfig]:
        """The configuration class with this tag. Raises ConfigError naming the nearest and the installed tags."""
        known = self.components[interface]
        if isinstance(tag, str) and tag in known:
            return known[tag]
        broken = "; not loaded: " + ", ".join(item.name for item in self.broken) if self.broken else ""
        raise ConfigError(
            f'unknown type "{tag}"{nearest(tag, known)}; installed: {", ".join(sorted(known)) or "none"}{broken}'
        )


def _distribution(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "unknown"


@cache
def installed() -> Registry:
    """The process's registry, filled from the entry points at the first call."""
    filled = Registry()
    filled.load_entry_points()
    return filled


def register(plugin: object, name: str | None = None) -> Plugin:
    """Registers a plugin of this process (a module or object with the hook), as an entry point would.

    For notebooks and tests; a model saved with it loads only where it is registered again.
    """
    return installed().add(plugin, name or str(getattr(plugin, "__name__", type(plugin).__name__)))


class ComponentField:
    """Validates a field by looking `type` up in the registry, so that error paths stay whole."""

    def __init__(self, interface: str) -> None:
        self.interface = interface

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return {INTERFACE_KEY: self.interface}

    def _validate(self, value: Any) -> ComponentConfig:
        if isinstance(value, ComponentConfig) and value.interface == self.interface:
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "component",
                "expected a {interface} with a type, for example type: {example}; got {got}",
                {
                    "interface": self.interface,
                    "example": next(iter(sorted(installed().components[self.interface])), "name"),
                    "got": type(value).__name__,
                },
            )
        if "type" not in value:
            raise PydanticCustomError(
                "component",
                "no type given; installed: {installed}",
                {"installed": ", ".join(sorted(installed().components[self.interface]))},
            )
        try:
            cls = installed().find(self.interface, value["type"])
        except ConfigError as error:
            raise PydanticCustomError("component", "{message}", {"message": str(error)}) from None
        return cls.model_validate(value)


def json_schema(root: type[ComponentConfig] | Any) -> dict[str, Any]:
    """The JSON schema of a configuration, with every installed component in place of its interface."""
    definitions: dict[str, Any] = {}

    def absorb(schema: dict[str, Any]) -> dict[str, Any]:
        for name, definition in schema.pop("$defs", {}).items():
            definitions[name] = _link(definition)
        return _link(schema)

    top = absorb(root.model_json_schema())
    for interface in INTERFACES:
        names = []
        for tag, cls in sorted(installed().components[interface].items()):
            name = f"{interface}.{tag}"
            definition = absorb(cls.model_json_schema())
            definition["required"] = sorted({*definition.get("required", []), "type"})
            definitions[name] = definition
            names.append(name)
        definitions[interface] = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": definitions}


def _link(node: Any) -> Any:
    if isinstance(node, dict):
        if INTERFACE_KEY in node:
            rest = {key: value for key, value in node.items() if key not in (INTERFACE_KEY, "default")}
            return {"$ref": f"#/$defs/{node[INTERFACE_KEY]}", **rest}
        return {key: _link(value) for key, value in node.items()}
    return [_link(value) for value in node] if isinstance(node, list) else node
