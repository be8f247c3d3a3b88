"""Calls of KServe's SDK, by REST and gRPC; prints JSON. Its environment runs it."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL, ADDRESS, TEXTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
STITCH, TRANSLATE = "stitch:minilm:topic", "translate:minilm:turned"


def request(model, tensor, **fields):
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="1", **fields)


def text_tensors():
    raw = InferInput("items", [len(TEXTS)], "BYTES")
    raw.set_data_from_numpy(np.array(TEXTS, object), binary_data=True)
    plain = InferInput("items", [len(TEXTS)], "BYTES", data=TEXTS)
    return {"raw": raw, "plain": plain}


def row_tensors(rows):
    raw = InferInput("embeddings", list(rows.shape), "FP32")
    raw.set_data_from_numpy(rows, binary_data=True)
    plain = InferInput("embeddings", list(rows.shape), "FP32", data=rows.ravel().tolist())
    half = InferInput("embeddings", list(rows.shape), "FP16")
    half.set_data_from_numpy(rows.astype(np.float16), binary_data=True)
    return {"raw": raw, "plain": plain, "half": half}


def labels(response):
    rows = response.outputs[0].as_numpy()
    return [row[0].decode() if isinstance(row[0], bytes) else row[0] for row in rows]


async def calls(infer, ready, live, model_ready):
    results = {"ready": await ready(), "live": await live(), "model": await model_ready(STITCH)}
    for form, tensor in text_tensors().items():
        outputs = [RequestedOutput("labels"), RequestedOutput("scores")]
        response = await infer(
            request(STITCH, tensor, parameters={"top": 2}, request_outputs=outputs)
        )
        results[f"labels {form}"] = labels(response)
        results[f"outputs {form}"] = [output.name for output in response.outputs]
    tensor = text_tensors()["raw"]
    embedded = await infer(request("embed:minilm", tensor))
    rows = embedded.outputs[0].as_numpy().reshape(embedded.outputs[0].shape)
    for form, tensor in row_tensors(rows.astype(np.float32)).items():
        response = await infer(request(TRANSLATE, tensor))
        output = response.outputs[0]
        results[f"rows {form}"] = output.as_numpy().reshape(output.shape).tolist()
    try:
        await infer(request("stitch:minilm:no", text_tensors()["raw"]))
    except Exception as error:  # noqa: BLE001 the client's own errors are what is reported
        results["error"] = str(error)
    return results


async def main():
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=300))
    grpc = InferenceGRPCClient(ADDRESS, timeout=300)

    async def infer_rest(message):
        return await rest.infer(URL, message, model_name=message.model_name)

    results = {
        "rest": await calls(
            infer_rest,
            lambda: rest.is_server_ready(URL),
            lambda: rest.is_server_live(URL),
            lambda model: rest.is_model_ready(URL, model),
        ),
        "grpc": await calls(
            grpc.infer, grpc.is_server_ready, grpc.is_server_live, grpc.is_model_ready
        ),
    }
    await grpc.close()
    await rest.close()
    print(json.dumps(results))


asyncio.run(main())
