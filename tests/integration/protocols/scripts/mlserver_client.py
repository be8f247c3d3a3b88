"""Calls with MLServer's codecs, by REST and gRPC; prints JSON. Its environment runs it."""

import json
import sys

import grpc
import httpx
import numpy as np
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, StringCodec, StringRequestCodec
from mlserver.grpc import converters
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestOutput

URL, ADDRESS, TEXTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
STITCH, TRANSLATE = "stitch:minilm:topic", "translate:minilm:turned"


def by_rest(model, request):
    response = httpx.post(
        f"{URL}/v2/models/{model}/infer", json=json.loads(request.model_dump_json()), timeout=300
    )
    if response.is_error:
        raise ValueError(response.text)
    return InferenceResponse.model_validate_json(response.text)


def by_grpc(model, request):
    with grpc.insecure_channel(ADDRESS) as channel:
        message = converters.ModelInferRequestConverter.from_types(request, model_name=model)
        response = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=300)
    return converters.ModelInferResponseConverter.to_types(response)


def calls(infer, use_bytes):
    results = {}
    texts = StringCodec.encode_input("items", TEXTS, use_bytes=use_bytes)
    request = InferenceRequest(
        id="1",
        parameters=Parameters(content_type="str"),
        inputs=[texts],
        outputs=[RequestOutput(name="labels"), RequestOutput(name="scores")],
    )
    response = infer(STITCH, request)
    labels = np.reshape(StringCodec.decode_output(response.outputs[0]), response.outputs[0].shape)
    results["labels"] = labels[:, 0].tolist()
    results["scores"] = NumpyCodec.decode_output(response.outputs[1]).tolist()
    whole = StringRequestCodec.encode_request(TEXTS, use_bytes=use_bytes)
    embedded = infer("embed:minilm", whole)
    rows = NumpyRequestCodec.decode_response(embedded)
    tensor = NumpyCodec.encode_input("embeddings", rows.astype(np.float32))
    translated = infer(TRANSLATE, InferenceRequest(inputs=[tensor]))
    results["rows"] = NumpyCodec.decode_output(translated.outputs[0]).tolist()
    try:
        infer("stitch:minilm:no", request)
    except (ValueError, grpc.RpcError) as error:
        results["error"] = str(error)
    return results


print(json.dumps({"rest": calls(by_rest, False), "grpc": calls(by_grpc, True)}))
