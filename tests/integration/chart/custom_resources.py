"""Strict schemas of the fields that the chart uses of resources that are not Kubernetes' own.

They follow the reference of KEDA 2.18 and of the Prometheus Operator 0.80; any other field is
refused.
"""

from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string", "minLength": 1}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def _object(required: str = "", **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


def _resource(api_version: str, kind: str, spec: Schema) -> Schema:
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    return _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=_object("name", name=TEXT, labels=labels),
        spec=spec,
    )


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


TRIGGER: Final = _object(
    "type metadata",
    type={"const": "metrics-api"},
    metricType={"enum": ["AverageValue", "Value"]},
    # KEDA reads every entry as text.
    metadata=_object(
        "url valueLocation targetValue",
        url=TEXT,
        valueLocation=TEXT,
        targetValue=TEXT,
        authMode={"enum": ["apiKey", "basic", "bearer", "tls"]},
    ),
    authenticationRef=_object("name", name=TEXT),
)
SCHEMAS: Final = {
    "ScaledObject": _resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        _object(
            "scaleTargetRef triggers",
            scaleTargetRef=_object("name", name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            triggers=_list(TRIGGER),
        ),
    ),
    "TriggerAuthentication": _resource(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        _object(
            secretTargetRef=_list(
                _object("parameter name key", parameter=TEXT, name=TEXT, key=TEXT)
            )
        ),
    ),
    "ServiceMonitor": _resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        _object(
            "selector endpoints",
            selector=_object(matchLabels={"type": "object"}),
            namespaceSelector=_object(matchNames=_list(TEXT)),
            endpoints=_list(
                _object(
                    port=TEXT,
                    path=TEXT,
                    interval=TEXT,
                    authorization=_object(credentials=_object("key", name=TEXT, key=TEXT)),
                )
            ),
        ),
    ),
}
