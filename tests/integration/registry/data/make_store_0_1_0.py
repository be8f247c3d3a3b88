"""Makes the data directory beside this file with release 0.1.0 of the service.

It runs with that release alone, whose package was called `service`, at a checkout of its commit:

    PYTHONPATH=CHECKOUT python make_store_0_1_0.py

Written are `store_0_1_0/`, what the embedded registry server stored, and `store_0_1_0.npz` and
`store_0_1_0.json`, what the service answered. The key is one of this test data alone.
"""

# mypy: ignore-errors

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
from service.client import Stitchwork
from service.errors import RegistryUnavailable
from service.launcher import Plan, start
from service.store import keys
from service.store.registry import Registry
from service.store.server import Server

FOLDER = Path(__file__).parent
ENCODER = {"kind": "transformers", "model": "some/encoder", "pooling": "cls"}
NAME = "store_0_1_0"
KEY = "sw_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
COUNT, ROWS, LATENT, CLASSES = 40, 24, 8, 3
BRIDGES = ("exp", "ridge", "ridge-whitened", "irp", "irp-completed", "none")


def main():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(COUNT + ROWS, LATENT))
    maps = {"x": rng.normal(size=(LATENT, 10)), "y": rng.normal(size=(LATENT, 14))}
    rows = {name: (inputs @ map_ + 0.1).astype(np.float32) for name, map_ in maps.items()}
    anchors = {name: part[:COUNT] for name, part in rows.items()}
    x, y = rows["x"][COUNT:], rows["y"][COUNT:]
    weight = rng.normal(size=(CLASSES, 14)).astype(np.float32)
    hidden = rng.normal(size=(6, 14)).astype(np.float32)
    last = rng.normal(size=(CLASSES, 6)).astype(np.float32)
    labels = ["red", "green", "blue"]
    texts = [f"text {number} about {word}" for number, word in enumerate("abcd" * 10)]
    expected, arrays = {}, {"x": x, "y": y}

    with TemporaryDirectory(prefix="sw") as data_dir:
        env = {"STITCHWORK_OFFLINE": "true", "STITCHWORK_LOG_LEVEL": "warning"}
        plan = Plan(port=0, data_dir=Path(data_dir), workers=0, env=env)
        with start(plan) as running, Stitchwork(running.url) as client:
            client.put_anchor_set("texts", "text", items=texts)
            client.put_anchor_set("points", ids=[f"p{i}" for i in range(COUNT)])
            client.put_space("text-x", "texts", anchors=anchors["x"], encoder=ENCODER)
            client.put_space(
                "text-y", "texts", anchors=anchors["y"], irp={"omega": 3, "delta": 0.5}
            )
            client.put_space("point-x", "points", anchors=anchors["x"])
            client.put_space("point-y", "points", anchors=anchors["y"])
            client.put_space("pending-space", "texts", encoder=ENCODER)
            client.put_head(
                "linear", "text-y", weight=weight, bias=np.zeros(CLASSES, np.float32), labels=labels
            )
            layers = {
                "0.weight": hidden,
                "0.bias": np.zeros(6, np.float32),
                "2.weight": last,
                "2.bias": np.zeros(CLASSES, np.float32),
            }
            client.put_head("mlp", "point-y", arrays=layers, labels=labels, activation="gelu")
            fit = {"items": texts[:6], "labels": ["a", "b"] * 3}
            client.put_head("pending-head", "text-x", fit=fit)
            truth = [labels[i] for i in (y @ weight.T).argmax(1)]
            client.judge(
                "text-x", "linear", truth, embeddings=x, native_embeddings=y, calibrate=True
            )
            for bridge in BRIDGES[:-1]:
                arrays[f"text/{bridge}"] = client.translate(x, "text-x", "text-y", bridge)
                arrays[f"point/{bridge}"] = client.translate(x, "point-x", "point-y", bridge)
            with httpx.Client(base_url=running.url) as http:
                for head, space in (("linear", "text-x"), ("mlp", "point-x")):
                    body = {"space": space, "embeddings": x.tolist(), "top": 3}
                    response = http.post(f"/classify/{head}", json=body).raise_for_status()
                    expected[f"classify/{head}"] = response.json()
                for kind in ("anchor-sets", "spaces", "heads"):
                    expected[kind] = http.get(f"/{kind}").raise_for_status().json()["items"]
                expected["info"] = http.get("/info").raise_for_status().json()
            _, record = keys.new("admin", [keys.Scope.ADMIN])
            record = record.model_copy(update={"digest": keys.digest(KEY)})
            server = Server(running.redis_url, 5.0, RegistryUnavailable)
            Registry(server, durable=True, stale_seconds=60).keys.add(record)
            server.close()
            expected["key"] = KEY
        shutil.rmtree(FOLDER / NAME, ignore_errors=True)
        shutil.copytree(
            Path(data_dir) / "registry",
            FOLDER / NAME / "registry",
            ignore=shutil.ignore_patterns("*.log"),
        )
    np.savez_compressed(FOLDER / f"{NAME}.npz", **arrays)
    (FOLDER / f"{NAME}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
