"""`values.schema.json` of the Helm chart: its part about settings, made from the settings model.

`python -m tests.support.chart_schema` writes it anew.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from stitchwork.cli.settings_options import API_SETTINGS, WORKER_SETTINGS
from stitchwork.settings import Settings

CHART: Final = Path(__file__).parents[2] / "service/chart"
SCHEMA: Final = CHART / "values.schema.json"
CHART_OWNED: Final = frozenset(
    {
        "host",
        "port",
        "unix_socket",
        "tls_cert_file",
        "tls_key_file",
        "redis_url",
        "queue_url",
        "key_file",
        "metrics_file",
        "worker_index",
        "worker_models",
        "worker_port",
        "device",
        "model_roots",
        "preload",
        "compile_cache_dir",
        "grpc_port",
    }
)
"""Settings that the chart sets from other values."""


def settings_schemas() -> dict[str, Any]:
    """The schemas of `settings`, `api.settings` and the `settings` of workers, by definition."""
    return {
        "settings": _schema(API_SETTINGS | WORKER_SETTINGS),
        "apiSettings": _schema(API_SETTINGS),
        "workerSettings": _schema(WORKER_SETTINGS),
    }


def _schema(names: Collection[str]) -> dict[str, Any]:
    model = Settings.model_json_schema()
    properties = {
        name: _property(field, model["$defs"])
        for name, field in model["properties"].items()
        if name in names and name not in CHART_OWNED
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A field's schema without defaults, which the service has, and without references."""
    result = {key: value for key, value in field.items() if key not in ("default", "title")}
    if "anyOf" in result:
        (kind,) = (option for option in result.pop("anyOf") if option["type"] != "null")
        result |= kind
    names = result.get("propertyNames", {})
    if "$ref" in names:
        result["propertyNames"] = {"enum": definitions[names["$ref"].rpartition("/")[2]]["enum"]}
    return result


def document() -> dict[str, Any]:
    """The whole schema, with the part about settings made anew."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text())
    schema["$defs"] |= settings_schemas()
    return schema


def render(schema: Mapping[str, Any]) -> str:
    """A schema as the file has it."""
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(render(document()))
